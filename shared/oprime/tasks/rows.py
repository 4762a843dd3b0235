"""Rows of files and the tasks in them, whatever their format: `oprime.tasks.formats` has a reader for each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from oprime.core.types import ChatMessage, Task
from oprime.runtime.errors import UnusableInputError
from oprime.wire.structs import struct_of

ROLES = ("system", "user", "assistant")
Render = Callable[[Sequence[ChatMessage]], Sequence[int]]
"""Token ids of a prompt, as the generator will see it. Raises UnusableInputError for one that the chat template refuses."""


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


class RowReader(Protocol):
    """Makes the tasks of one row format."""

    @property
    def name(self) -> str:
        """Shown in messages; the value of tasks.reader for a reader of oprime's own."""
        ...

    @property
    def fields(self) -> Sequence[str]:
        """Fields that are read of a row; all others are passed over. Empty reads all."""
        ...

    def read(self, row: RawRow) -> Task:
        """The task in a row. An exception makes it a bad row; a BadRowError says best what is wrong with it."""
        ...


def read_task(row: RawRow, reader: RowReader, render: Render | None = None) -> Task:
    """The task in a row, fit for a run; `render` tries its prompt. Raises BadRowError with file, row, field, rule and remedy."""
    row_object(row)
    try:
        task = reader.read(row)
    except BadRowError:
        raise
    except Exception as error:
        rule = f"{type(error).__name__}: {error}; correct the row or the reader"
        raise BadRowError(row, "row", f"refused by the reader {reader.name}", rule) from error
    if not isinstance(task, Task):
        raise BadRowError(row, "row", "no task", f"the reader {reader.name} made {shown(task)} of it, not a Task; correct the reader")
    require_usable_task(row, task)
    if render is not None:
        _require_rendered(row, task, render)
    return task


def row_object(row: RawRow) -> dict[str, Any]:
    """The row as an object. Raises BadRowError if it is none."""
    if row.problem:
        raise BadRowError(row, "row", "wrong JSON", f"{row.problem}; write one JSON object per line")
    if not isinstance(row.value, dict):
        raise BadRowError(row, "row", "no object", f"a row is a JSON object, this is {shown(row.value)}; write one object per line")
    return row.value


def messages_of(row: RawRow, field: str, value: Any, *, last_role: str) -> tuple[ChatMessage, ...]:
    """The conversation in a field, which must end with a turn of `last_role`. Raises BadRowError."""
    if not isinstance(value, list) or not value:
        raise BadRowError(
            row,
            field,
            f"empty {field}",
            f"must be a list of at least one {{role, content}}, not {shown(value)}; remove the row or fill it in",
        )
    messages = tuple(_message(row, f"{field}[{place}]", entry) for place, entry in enumerate(value))
    if messages[-1].role != last_role:
        rule = f"the last turn must be the {last_role}'s, not the {messages[-1].role}'s; remove what follows it"
        raise BadRowError(row, f"{field}[{len(messages) - 1}].role", "wrong role", rule)
    return messages


def text_of(row: RawRow, value: Mapping[str, Any], field: str) -> str:
    """A text that must be there. Raises BadRowError."""
    text = value.get(field)
    if not is_text(text):
        rule = f"must be a text that is not empty, not {shown(text)}; fields of this row are {', '.join(map(str, value)) or 'none'}"
        raise BadRowError(row, field, f"missing {field}", rule)
    return text


def _message(row: RawRow, field: str, entry: Any) -> ChatMessage:
    if not isinstance(entry, dict):
        raise BadRowError(row, field, "wrong message", f"must be an object {{role, content}}, not {shown(entry)}; correct the row")
    role, content = entry.get("role"), entry.get("content")
    if role not in ROLES:
        raise BadRowError(row, f"{field}.role", "wrong role", f"must be one of {', '.join(ROLES)}, not {shown(role)}; correct the row")
    if not is_text(content):
        reason = f"empty {field.partition('[')[0]}"
        raise BadRowError(
            row, f"{field}.content", reason, f"must be a text that is not empty, not {shown(content)}; remove the row or fill it in"
        )
    return ChatMessage(role=role, content=content)


def require_usable_task(row: RawRow, task: Task) -> None:
    """Raise BadRowError unless a run could pose the task, whatever form its row has."""
    turns = [(turn.role, turn.content) for turn in task.messages]
    if not turns or turns[-1][0] != "user" or any(role not in ROLES or not is_text(content) for role, content in turns):
        rule = f"turns are of {', '.join(ROLES)}, none is empty, the last is the user's, not {shown(turns)}; correct the row or its reader"
        raise BadRowError(row, "prompt", "no usable prompt", rule)
    for field, text in (("verifier", task.verifier), ("ground_truth", task.ground_truth), ("data_source", task.data_source or "none")):
        if not is_text(text):
            reason = f"wrong {field.replace('_', ' ')}"
            raise BadRowError(row, field, reason, f"must be a text that is not empty, not {shown(text)}; correct the row or its reader")
    if task.verifier == "code":
        _require_tests(row, "ground_truth", task.ground_truth)
    try:
        struct_of(task.verifier_options)
    except ValueError as error:
        raise BadRowError(row, "verifier_options", "wrong verifier options", str(error)) from error


def _require_rendered(row: RawRow, task: Task, render: Render) -> None:
    try:
        render(task.messages)
    except UnusableInputError as error:
        raise BadRowError(row, "prompt", "refused by the chat template", f"{error}; correct or remove the row") from error


def _require_tests(row: RawRow, field: str, truth: str) -> None:
    try:
        tests = json.loads(truth)
    except ValueError as error:
        raise BadRowError(
            row, field, "wrong JSON", f"the tests of a code task are JSON, and this is none ({error}); correct the row"
        ) from error
    if not isinstance(tests, dict | list) or not tests:
        rule = f"must hold tests such as {{inputs, outputs}}, not {shown(tests)}; correct the row"
        raise BadRowError(row, field, "missing ground truth", rule)


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that is not blank and that UTF-8 can hold (JSON can smuggle in half a character)."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value in an error message, cut at 60 characters."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
