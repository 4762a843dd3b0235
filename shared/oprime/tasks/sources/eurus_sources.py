"""Both revisions of Eurus-2-RL-Data. System turns and suffixes are left out: prompts are laid out anew."""

from collections.abc import Mapping
from typing import Any, cast

from oprime.tasks.formats import eurus
from oprime.tasks.rows import BadRowError, RawRow, shown
from oprime.tasks.sources.question import Ability, Question, Source, first_text, marks, text_or_nothing

MATH_SUFFIX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
CODE_SUFFIX = "\n\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end."
"""What the data set appends to questions."""
_ABILITY_OF_TASK: dict[str, Ability] = {"math": "math", "coding": "code", "code": "code"}


def _current(row: RawRow, value: Mapping[str, Any]) -> Question:
    task = eurus.READER.read(RawRow(origin=row.origin, value={**value, "reward_model": _with_text(value.get("reward_model"))}))
    if task.verifier not in ("math", "code"):
        rule = f"must be math or code, not {task.verifier}: other tasks are ready, so leave this file out"
        raise BadRowError(row, "ability", "other ability", rule)
    return Question(
        text=_without_suffix(task.messages[-1].content),
        ground_truth="" if task.ground_truth == _NOTHING else task.ground_truth,
        ability=cast(Ability, task.verifier),
        data_source=task.data_source,
        verifier_options=task.verifier_options,
    )


_NOTHING = "(none)"


def _with_text(reward_model: Any) -> Any:
    """A row without an answer is a question without one, no broken row."""
    if isinstance(reward_model, dict) and not text_or_nothing(reward_model.get("ground_truth")):
        return {**reward_model, "ground_truth": _NOTHING}
    return reward_model


def _first(row: RawRow, value: Mapping[str, Any]) -> Question:
    task = first_text(row, "task")
    ability = _ABILITY_OF_TASK.get(task.lower())
    if ability is None:
        raise BadRowError(row, "task", "unknown task", f"must be Math or Coding, not {shown(task)}; correct the row")
    return Question(
        text=_without_suffix(first_text(row, "instruction")),
        ground_truth=text_or_nothing(value.get("reference")),
        ability=ability,
        data_source=text_or_nothing(value.get("source")),
    )


def _without_suffix(text: str) -> str:
    return text.rstrip().removesuffix(MATH_SUFFIX.rstrip()).removesuffix(CODE_SUFFIX.rstrip()).rstrip()


SOURCES = (
    Source(
        name="eurus",
        about="Eurus-2-RL-Data, and files that oprime wrote",
        marks=marks("prompt ability reward_model"),
        read_row=_current,
    ),
    Source(
        name="eurus_first_revision",
        about="the first revision of Eurus-2-RL-Data: `task`, `source`, `instruction`, `reference`",
        marks=marks("task instruction reference"),
        read_row=_first,
    ),
)
