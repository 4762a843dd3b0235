"""Rows of a JSONL file, or of standard input, to answers in their order; an interrupted file goes on where it was."""

import itertools
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from oprime.runtime.errors import UnusableInputError
from oprime.runtime.whole_files import is_stream
from oprime_cli.files import write_atomically
from oprime_cli.output_files import STDIN

Answer = dict[str, Any]
"""A row of the output: `id`, and `error` where nothing else could be said."""


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
    """Rows that an earlier run answered."""
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


async def answer_file(
    source: Path, out: Path | None, sink: Callable[[Row, Answer], None], ask: Ask, read: Read, note: Callable[[Tally], None], *, window: int
) -> Tally:
    """Answer every row, `window` of them at a time, into `out` behind the rows that it holds already, and hand each to `sink`.

    Raises UnusableInputError when a file cannot be used or `out` belongs to another input, and what `ask` raises; what was written stays.
    """
    tally, rows = Tally(), rows_of(source, read)
    for answer in _written(out, rows, source):
        tally.add(answer)
        tally.reused += 1
    with _opened(out) as stream:
        while some := list(itertools.islice(rows, window)):
            for row, answer in zip(some, await _answers(some, ask), strict=True):
                tally.add(answer)
                if stream is not None:
                    stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
                    stream.flush()
                sink(row, answer)
            note(tally)
    return tally


async def _answers(rows: Sequence[Row], ask: Ask) -> list[Answer]:
    answers = iter(await ask([row for row in rows if not row.problem]))
    return [{"id": row.id, "error": row.problem} if row.problem else next(answers) for row in rows]


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
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Row(number=number, problem=f"line {number} is no JSON that can be used: {error}")
    if not isinstance(value, dict):
        return Row(number=number, problem=f"line {number} is a {type(value).__name__}; write one JSON object per line")
    problem = read(value)
    return Row(number=number, value=value, problem=f"line {number}: {problem}" if problem else "")


def _written(out: Path | None, rows: Iterator[Row], source: Path) -> list[Answer]:
    """The answers that stand in `out`, for which `rows` are passed over; a last line that was cut in the middle is removed."""
    if out is None or is_stream(out) or not out.exists():
        return []
    answers = answers_in(out)
    for place, answer in enumerate(answers, start=1):
        row = next(rows, None)
        if row is None or row.id != answer.get("id"):
            has = "no such row" if row is None else f"{row.id!r}"
            raise UnusableInputError(
                f"{out}, line {place} has the id {answer.get('id')!r} where {source} has {has}: it is the output of another input; "
                "name another --out or add --fresh"
            )
    write_atomically(out, "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
    return answers


def answers_in(out: Path) -> list[Answer]:
    """The whole lines of an output. Raises UnusableInputError for a file that is none."""
    answers: list[Answer] = []
    for line in out.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            answers.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UnusableInputError(
                f"{out}, line {len(answers) + 1}: this is no output of this command ({error}); name another --out or add --fresh"
            ) from error
    return answers


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str] | None]:
    if out is None:
        yield None
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = out.open("a", encoding="utf-8")
    except OSError as error:
        raise UnusableInputError(f"--out {out} cannot be written: {error.strerror or error}") from error
    with stream:
        yield stream


def summary(tally: Tally, what: str) -> str:
    """One line for a person."""
    parts = [f"{tally.rows} {what}"]
    if tally.rewards:
        parts.append(f"mean reward {sum(tally.rewards) / len(tally.rewards):.4g} of {len(tally.rewards)}")
    if tally.revisions:
        parts.append(f"by {', '.join(sorted(tally.revisions))}")
    if tally.reused:
        parts.append(f"{tally.reused} answered earlier")
    if tally.failed:
        parts.append(f"{tally.failed} could not be answered: see their errors")
    return "; ".join(parts)


def lacking(value: dict[str, Any], forms: Iterable[tuple[str, ...]]) -> str:
    """Why a row has none of the forms, each a tuple of fields; empty where it has one."""
    if any(all(name in value for name in form) for form in forms):
        return ""
    wanted = ", or ".join(" and ".join(form) for form in forms)
    return f"it has {', '.join(value) or 'nothing'}; give {wanted}"
