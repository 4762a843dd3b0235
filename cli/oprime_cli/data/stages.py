"""Stages of data preparation, one after another, each from a file to a file: what is kept, and what is dropped with the reason.

A stage whose settings and input are those of an earlier run is passed over; what it wrote stands. One that was interrupted begins anew,
and asks no model a second time (`record_log.py`).
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from oprime.runtime.errors import OprimeError
from oprime.runtime.whole_files import is_stream
from oprime.tasks.sources.question import Question
from oprime_cli.data.record_log import unwritable
from oprime_cli.files import read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question on its way through the stages."""

    origin: str
    """File and row that it comes from."""
    question: Question
    pass_rate: float | None = None
    """Share of a model's samples that were right, once it was asked."""

    def to_json(self) -> dict[str, Any]:
        rate = {} if self.pass_rate is None else {"pass_rate": self.pass_rate}
        return {"origin": self.origin, **asdict(self.question), **rate}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Item":
        rest = {name: part for name, part in value.items() if name not in ("origin", "pass_rate")}
        return cls(origin=value["origin"], question=Question(**rest), pass_rate=value.get("pass_rate"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What does not go on."""

    reason: str
    """Short, and equal for all that are dropped for it."""
    item: Item | None = None
    """None for a row that could not be read."""
    detail: str = ""
    """What speaks against this one."""


class Stage(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Any:
        """All that the result depends on besides the input, as JSON."""
        ...

    def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        """In the order of the items. `folder` is for files of the stage's own, which begin with its name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage did."""

    stage: str
    fingerprint: str
    """Equal for equal settings and input."""
    came: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """By reason, the most frequent first."""
    seconds: float = 0.0
    reused: bool = False
    """Whether an earlier run had done it."""


Note = Callable[[str, int], None]
"""Told the stage and how many items it has seen."""


async def run_stages(stages: Iterable[Stage], folder: Path, note: Note) -> AsyncGenerator[StageResult]:
    """Run the stages one after another; the last one's kept items are in `kept_file` of it."""
    before: Path | None = None
    fingerprint = ""
    for stage in stages:
        fingerprint = _fingerprint(stage, fingerprint)
        result = _earlier(stage, folder, fingerprint)
        if result is None:
            result = await _run(stage, folder, before, fingerprint, note)
        yield result
        before = kept_file(folder, stage.name)


def kept_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.jsonl"


def dropped_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.dropped.jsonl"


def items_in(path: Path) -> Iterator[Item]:
    """Raises OprimeError for a file that cannot be read or was written by something else."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield Item.from_json(json.loads(line))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OprimeError(
            f"{path} cannot be read as the result of a stage ({error}): remove its folder and run the command again"
        ) from error


def _fingerprint(stage: Stage, before: str) -> str:
    text = json.dumps([stage.name, stage.settings, before], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _summary_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.json"


def _earlier(stage: Stage, folder: Path, fingerprint: str) -> StageResult | None:
    found = read_json(_summary_file(folder, stage.name))
    if found is None or found.get("fingerprint") != fingerprint or not kept_file(folder, stage.name).exists():
        return None
    return StageResult(**{**found, "reused": True})


async def _run(stage: Stage, folder: Path, before: Path | None, fingerprint: str, note: Note) -> StageResult:
    started, came, kept, reasons = time.monotonic(), 0, 0, Counter[str]()
    # A summary says that the files beside it are whole.
    _summary_file(folder, stage.name).unlink(missing_ok=True)
    async with AsyncExitStack() as stack:
        good = stack.enter_context(JsonLines(kept_file(folder, stage.name)))
        bad = stack.enter_context(JsonLines(dropped_file(folder, stage.name)))
        outcomes = await stack.enter_async_context(aclosing(stage.run(items_in(before) if before else iter(()), folder)))
        async for outcome in outcomes:
            came += 1
            if isinstance(outcome, Item):
                kept += 1
                good.write(outcome.to_json())
            else:
                reasons[outcome.reason] += 1
                bad.write({"reason": outcome.reason, "detail": outcome.detail, **(outcome.item.to_json() if outcome.item else {})})
            note(stage.name, came)
    result = StageResult(
        stage=stage.name,
        fingerprint=fingerprint,
        came=came,
        kept=kept,
        dropped=dict(reasons.most_common()),
        seconds=round(time.monotonic() - started, 2),
    )
    write_json(_summary_file(folder, stage.name), asdict(result))
    return result


class JsonLines:
    """A JSONL file that gets its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path if is_stream(path) else path.with_name(f"{path.name}.part")

    def __enter__(self) -> "JsonLines":
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._part.open("wb")
        except OSError as error:
            raise unwritable(self._path, error) from error
        return self

    def write(self, value: dict[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
        try:
            self._stream.write(line + b"\n")
        except OSError as error:
            raise unwritable(self._path, error) from error

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        try:
            self._stream.close()
            if kind is None and self._part != self._path:
                self._part.replace(self._path)
        except OSError as error:
            if kind is None:
                raise unwritable(self._path, error) from error
