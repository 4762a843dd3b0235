"""Rows of a JSONL file, or of standard input, to answers in their order; an interrupted file goes on where it was, and what no longer holds
is asked anew."""

import itertools
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oprime.runtime.errors import UnusableInputError
from oprime_cli.continued_file import continued, rows_in
from oprime_cli.fingerprints import fingerprint_of
from oprime_cli.json_lines import json_of
from oprime_cli.output_files import STDIN

Answer = dict[str, Any]
"""A row of the output: `id`, `fingerprint` of the row and the options that it answers, and `error` where nothing else could be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the input."""

    number: int
    """Counted from 1."""
    value: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why the line is no request, the rule and the remedy."""

    @property
    def id(self) -> Any:
        return self.value.get("id")


@dataclass(slots=True)
class Tally:
    """What a run saw."""

    rows: int = 0
    failed: int = 0
    reused: int = 0
    """Rows whose answers by an earlier run still hold."""
    anew: int = 0
    """Rows that an earlier run had answered, and that were asked again."""
    rewards: list[float] = field(default_factory=list[float])
    revisions: set[str] = field(default_factory=set[str])

    def add(self, answer: Answer) -> None:
        self.rows += 1
        self.failed += "error" in answer
        if answer.get("reward") is not None:
            self.rewards.append(answer["reward"])
        if "revision" in answer:
            self.revisions.add(answer["revision"])


Ask = Callable[[Sequence[Row]], Awaitable[list[Answer]]]
Read = Callable[[dict[str, Any]], str]
"""What is wrong with a row; empty when nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A row that an earlier run answered."""

    row: Row
    answer: Answer
    holds: bool
    """Whether it is the answer to this row with these options, and no failure."""


async def answer_file(
    source: Path,
    out: Path | None,
    sink: Callable[[Row, Answer], None],
    ask: Ask,
    read: Read,
    note: Callable[[Tally], None],
    *,
    options: Mapping[str, Any],
    window: int,
) -> Tally:
    """Answer every row, `window` of them at a time, into `out`, and hand each new answer to `sink`. `options` are what `ask` asks with.

    Answers in `out` that still hold are not asked for again; those before the first that does not are left as they are. Raises
    UnusableInputError when a file cannot be used or `out` belongs to another input, and what `ask` raises; what was written stays.
    """
    tally, rows = Tally(), rows_of(source, read)
    earlier = _earlier(out, rows, source, options)
    kept = sum(1 for _ in itertools.takewhile(lambda one: one.holds, earlier))
    for one in earlier[:kept]:
        tally.add(one.answer)
    tally.reused = sum(one.holds for one in earlier)
    tally.anew = sum(not one.holds and not one.row.problem for one in earlier)
    to_do = itertools.chain(((one.row, one.answer if one.holds else None) for one in earlier[kept:]), ((row, None) for row in rows))
    writing = continued(out, [one.answer for one in earlier], kept) if out is not None else nullcontext(_nowhere)
    with writing as write:
        while some := list(itertools.islice(to_do, window)):
            answers = iter(await _answers([row for row, held in some if held is None], ask, options))
            for row, held in some:
                answer = held or next(answers)
                tally.add(answer)
                write(answer)
                if held is None:
                    sink(row, answer)
            note(tally)
    return tally


def _nowhere(answer: Answer) -> None:
    """There is no output."""


async def _answers(rows: Sequence[Row], ask: Ask, options: Mapping[str, Any]) -> list[Answer]:
    asked = [row for row in rows if not row.problem]
    answers = iter(await ask(asked) if asked else ())
    return [
        {"id": row.id, "error": row.problem} if row.problem else {**next(answers), "fingerprint": fingerprint_of(row.value, options)}
        for row in rows
    ]


def rows_of(source: Path, read: Read) -> Iterator[Row]:
    """Every line but blank ones. Raises UnusableInputError when the file cannot be read."""
    try:
        with sys.stdin.buffer if source == STDIN else source.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _row(line, number, read)
    except OSError as error:
        raise UnusableInputError(f"{source} cannot be read: {error.strerror or error}") from error


def _row(line: bytes, number: int, read: Read) -> Row:
    try:
        value = json_of(line)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Row(number=number, problem=f"line {number} is no JSON that can be used: {error}")
    if not isinstance(value, dict):
        return Row(number=number, problem=f"line {number} is a {type(value).__name__}; write one JSON object per line")
    problem = read(value)
    return Row(number=number, value=value, problem=f"line {number}: {problem}" if problem else "")


def _earlier(out: Path | None, rows: Iterator[Row], source: Path, options: Mapping[str, Any]) -> list[Earlier]:
    """The answers that stand in `out`, with their rows, which are taken from `rows`."""
    found: list[Earlier] = []
    for place, answer in enumerate(rows_in(out), start=1):
        row = next(rows, None)
        if row is None or row.id != answer.get("id"):
            has = "no such row" if row is None else f"{row.id!r}"
            raise UnusableInputError(
                f"{out}, line {place} has the id {answer.get('id')!r} where {source} has {has}: it is the output of another input; "
                "name another --out or add --fresh"
            )
        found.append(Earlier(row=row, answer=answer, holds=_holds(answer, row, options)))
    return found


def _holds(answer: Answer, row: Row, options: Mapping[str, Any]) -> bool:
    return not row.problem and "error" not in answer and answer.get("fingerprint") == fingerprint_of(row.value, options)


def summary(tally: Tally) -> str:
    """One line for a person."""
    parts = [f"{tally.rows} {'row' if tally.rows == 1 else 'rows'}"]
    if tally.rewards:
        parts.append(f"mean reward {sum(tally.rewards) / len(tally.rewards):.4g} of {len(tally.rewards)}")
    if tally.revisions:
        parts.append(f"by {', '.join(sorted(tally.revisions))}")
    if tally.reused:
        parts.append(f"{tally.reused} answered earlier")
    if tally.anew:
        parts.append(f"{tally.anew} asked anew, as they had failed, or their rows or the options changed")
    if tally.failed:
        parts.append(f"{tally.failed} could not be answered: see their errors")
    return "; ".join(parts)


def lacking(value: dict[str, Any], forms: Iterable[tuple[str, ...]]) -> str:
    """Why a row has none of the forms, each a tuple of fields; empty where it has one."""
    if any(all(name in value for name in form) for form in forms):
        return ""
    wanted = ", or ".join(" and ".join(form) for form in forms)
    return f"it has {', '.join(value) or 'nothing'}; give {wanted}"
