"""The prose task as rows: tasks in the schema of Eurus-2-RL-Data, demonstrations, and solutions whose first wrong step is known."""

import itertools
from collections.abc import Iterator
from typing import Any

from oprime.tasks.prose.problem import Problem, Split
from oprime.tasks.prose.teacher import ErrorKind, LabelledSolution, Teacher, labelled_solutions
from oprime.tasks.prose.writing import blocks


def task_row(posed: Problem, index: int, split: Split) -> dict[str, Any]:
    """A problem, for the verifier `math` or `code`."""
    return {
        "data_source": f"oprime_prose_{posed.kind}",
        "prompt": [{"role": "user", "content": posed.prompt}],
        "ability": posed.kind,
        "reward_model": {"style": "rule", "ground_truth": posed.ground_truth},
        "extra_info": {"index": index, "split": split},
    }


def demonstration_row(prompt: str, response: str) -> dict[str, Any]:
    """A row of `sft.demonstrations`."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]}


def steps_rows(kind: ErrorKind, number: int, teacher: Teacher) -> Iterator[dict[str, Any]]:
    """By turns a right solution and one with an error of this kind, `number` of each."""
    pairs = zip(labelled_solutions("none", number, teacher), labelled_solutions(kind, number, teacher), strict=True)
    return map(steps_row, itertools.chain.from_iterable(pairs))


def steps_row(labelled: LabelledSolution) -> dict[str, Any]:
    """A row of ProcessBench's format; its steps are the response's blocks, so that they are separated by an empty line."""
    label = -1 if labelled.first_wrong is None else labelled.first_wrong
    return {"problem": labelled.problem.prompt, "steps": blocks(labelled.response), "label": label}
