"""What the chain task's noisy teacher says: responses labelled by their answers, and solutions whose first wrong step is known."""

from typing import Any

from oprime.core.types import ChatMessage
from oprime.tasks.chain import LabelledChain, Split, Teacher
from oprime.tasks.responses import LabelledResponses


def teacher_responses(teacher: Teacher, split: Split, index: int, operations: int, number: int) -> LabelledResponses:
    """Problem `index` of a split with `number` responses."""
    posed, responses = teacher.answered(split, index, operations, number)
    return LabelledResponses(
        messages=(ChatMessage(role="user", content=posed.prompt),),
        responses=responses,
        outcome_rewards=tuple(float(posed.answered_by(response)) for response in responses),
        answers=tuple(response.split()[-1] for response in responses),
    )


def labelled_row(labelled: LabelledResponses) -> dict[str, Any]:
    """A row of the format `labelled`."""
    return {
        "prompt": labelled.messages[-1].content,
        "responses": list(labelled.responses),
        "labels": list(labelled.outcome_rewards),
        "answers": list(labelled.answers),
    }


def steps_row(chain: LabelledChain) -> dict[str, Any]:
    """A row of ProcessBench's format; its steps are separated by spaces. The answer is no step."""
    label = -1 if chain.first_wrong_step is None else chain.first_wrong_step
    return {"problem": chain.prompt, "steps": chain.response.split()[:-1], "label": label}
