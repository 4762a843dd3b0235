"""Rows in the schema of Eurus-2-RL-Data, and the tasks they hold.

    {"data_source": "numina_olympiads", "prompt": [{"role": "user", "content": "..."}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 0, "split": "train"}}

`ability` chooses the verifier; a field `verifier` overrides it. `verifier_options` has options for this row alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from oprime.core.types import ChatMessage, Task
from oprime.runtime.errors import UnusableInputError
from oprime.tasks.chain import Problem, Split

VERIFIER_OF_ABILITY = {"math": "math", "code": "code", "chain": "chain"}
ROLES = ("system", "user", "assistant")
ROW_FIELDS = ("data_source", "prompt", "ability", "reward_model", "verifier", "verifier_options")
"""What is read of a row; everything else is passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as it stands in its file. `problem` says why it could not be read, with `value` None."""

    origin: str
    """File and row number, counted from 1."""
    value: Any
    problem: str = ""


class BadRowError(UnusableInputError):
    """A row that cannot be used."""

    def __init__(self, row: RawRow, field: str, reason: str, rule: str) -> None:
        self.reason = reason
        """A short name, equal for all rows with this fault."""
        super().__init__(f"{row.origin}, {field}: {reason}: {rule}")


def task_of_row(row: RawRow) -> Task:
    """The task in a row. Raises BadRowError with file, row, field, rule and remedy."""
    value = row_object(row)
    verifier = _verifier(row, value)
    return Task(
        messages=_prompt(row, value),
        verifier=verifier,
        ground_truth=_ground_truth(row, value, verifier),
        data_source=_data_source(row, value),
        verifier_options=_verifier_options(row, value),
    )


def row_object(row: RawRow) -> dict[str, Any]:
    """The row as an object. Raises BadRowError if it is none."""
    if row.problem:
        raise BadRowError(row, "row", "wrong JSON", f"{row.problem}; write one JSON object per line")
    if not isinstance(row.value, dict):
        raise BadRowError(row, "row", "no object", f"a row is a JSON object, this is {_shown(row.value)}; write one object per line")
    return row.value


def messages_of(row: RawRow, field: str, value: Any, *, last_role: str) -> tuple[ChatMessage, ...]:
    """The conversation in a field, which must end with a turn of `last_role`. Raises BadRowError."""
    if not isinstance(value, list) or not value:
        raise BadRowError(
            row,
            field,
            f"empty {field}",
            f"must be a list of at least one {{role, content}}, not {_shown(value)}; remove the row or fill it in",
        )
    messages = tuple(_message(row, f"{field}[{place}]", entry) for place, entry in enumerate(value))
    if messages[-1].role != last_role:
        rule = f"the last turn must be the {last_role}'s, not the {messages[-1].role}'s; remove what follows it"
        raise BadRowError(row, f"{field}[{len(messages) - 1}].role", "wrong role", rule)
    return messages


def chain_row(posed: Problem, index: int, split: Split) -> dict[str, Any]:
    """A problem of the built-in chain task as a row."""
    return {
        "data_source": "oprime_chain",
        "prompt": [{"role": "user", "content": posed.prompt}],
        "ability": "chain",
        "reward_model": {"style": "rule", "ground_truth": posed.ground_truth},
        "extra_info": {"index": index, "split": split},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFields:
    """How to make rows of another file's columns."""

    question: str
    answer: str
    ability: str
    answer_after: str = ""
    """Take what follows the last occurrence of this text in the answer's column; empty takes all of it."""
    system: str = ""
    """Text of a system turn before each question; empty for none."""
    suffix: str = ""
    """Text appended to each question."""
    data_source: str = ""


def converted_rows(rows: Iterable[RawRow], fields: RowFields, split: Split) -> Iterator[dict[str, Any]]:
    """Rows of this schema from two columns of other rows. Raises BadRowError where one is missing."""
    for index, row in enumerate(rows):
        value = row_object(row)
        answer = _text(row, value, fields.answer)
        if fields.answer_after not in answer:
            rule = f"no {fields.answer_after!r} in {_shown(answer)}; correct the row or --answer-after"
            raise BadRowError(row, fields.answer, "missing answer", rule)
        system = [{"role": "system", "content": fields.system}] if fields.system else []
        yield {
            "data_source": fields.data_source,
            "prompt": [*system, {"role": "user", "content": _text(row, value, fields.question) + fields.suffix}],
            "ability": fields.ability,
            "reward_model": {
                "style": "rule",
                "ground_truth": (answer.rpartition(fields.answer_after)[2] if fields.answer_after else answer).strip(),
            },
            "extra_info": {"index": index, "split": split},
        }


def _text(row: RawRow, value: Mapping[str, Any], field: str) -> str:
    text = value.get(field)
    if not _is_text(text):
        rule = f"must be a text that is not empty, not {_shown(text)}; fields of this row are {', '.join(map(str, value)) or 'none'}"
        raise BadRowError(row, field, f"missing {field}", rule)
    return text


def _message(row: RawRow, field: str, entry: Any) -> ChatMessage:
    if not isinstance(entry, dict):
        raise BadRowError(row, field, "wrong message", f"must be an object {{role, content}}, not {_shown(entry)}; correct the row")
    role, content = entry.get("role"), entry.get("content")
    if role not in ROLES:
        raise BadRowError(row, f"{field}.role", "wrong role", f"must be one of {', '.join(ROLES)}, not {_shown(role)}; correct the row")
    if not _is_text(content):
        reason = f"empty {field.partition('[')[0]}"
        raise BadRowError(
            row, f"{field}.content", reason, f"must be a text that is not empty, not {_shown(content)}; remove the row or fill it in"
        )
    return ChatMessage(role=role, content=content)


def _prompt(row: RawRow, value: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
    return messages_of(row, "prompt", value.get("prompt"), last_role="user")


def _verifier(row: RawRow, value: Mapping[str, Any]) -> str:
    chosen = value.get("verifier")
    if chosen is not None:
        if not isinstance(chosen, str) or not chosen.strip():
            raise BadRowError(
                row, "verifier", "wrong verifier", f"must be the name of a verifier, not {_shown(chosen)}; correct or remove it"
            )
        return chosen
    ability = value.get("ability")
    if not isinstance(ability, str) or ability not in VERIFIER_OF_ABILITY:
        rule = (
            f"must be one of {', '.join(VERIFIER_OF_ABILITY)}, not {_shown(ability)}; correct it, or name a verifier in the field verifier"
        )
        raise BadRowError(row, "ability", "unknown ability", rule)
    return VERIFIER_OF_ABILITY[ability]


def _ground_truth(row: RawRow, value: Mapping[str, Any], verifier: str) -> str:
    reward_model = value.get("reward_model")
    if not isinstance(reward_model, dict):
        rule = f"must be an object {{style, ground_truth}}, not {_shown(reward_model)}; correct the row"
        raise BadRowError(row, "reward_model", "missing ground truth", rule)
    style = reward_model.get("style")
    if style not in (None, "rule"):
        rule = f'must be "rule", not {_shown(style)}: oprime verifies answers and asks no other reward model; correct or remove the row'
        raise BadRowError(row, "reward_model.style", "wrong style", rule)
    truth = reward_model.get("ground_truth")
    field = "reward_model.ground_truth"
    if not _is_text(truth):
        rule = f"must be a text that is not empty, not {_shown(truth)}; remove the row, or write the answer as text"
        raise BadRowError(row, field, "missing ground truth", rule)
    if verifier == "code":
        _require_tests(row, field, truth)
    return truth


def _require_tests(row: RawRow, field: str, truth: str) -> None:
    try:
        tests = json.loads(truth)
    except ValueError as error:
        raise BadRowError(
            row, field, "wrong JSON", f"the tests of a code task are JSON, and this is none ({error}); correct the row"
        ) from error
    if not isinstance(tests, dict | list) or not tests:
        rule = f"must hold tests such as {{inputs, outputs}}, not {_shown(tests)}; correct the row"
        raise BadRowError(row, field, "missing ground truth", rule)


def _data_source(row: RawRow, value: Mapping[str, Any]) -> str:
    source = value.get("data_source")
    if source is None or source == "":
        return ""
    if not _is_text(source):
        raise BadRowError(row, "data_source", "wrong data source", f"must be a text, not {_shown(source)}; correct or remove it")
    return source


def _verifier_options(row: RawRow, value: Mapping[str, Any]) -> dict[str, Any]:
    options = value.get("verifier_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        rule = f"must be an object such as {{cpu_s: 2}}, not {_shown(options)}; correct or remove it (docs/verifier.md)"
        raise BadRowError(row, "verifier_options", "wrong verifier options", rule)
    # Parquet fills what a row leaves out with nulls.
    return {name: option for name, option in options.items() if option is not None}


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that is not blank and that UTF-8 can hold (JSON can smuggle in half a character)."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
