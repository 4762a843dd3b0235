"""Stages from file to file, and results that are not paid for twice."""

import json
import resource
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from oprime.runtime.errors import OprimeError, UnusableInputError
from oprime.tasks.sources.question import Question
from oprime_cli.data.record_log import RecordLog
from oprime_cli.data.stages import Dropped, Item, Stage, StageResult, dropped_file, items_in, kept_file, run_stages


def item(number: int) -> Item:
    return Item(origin=f"f, row {number}", question=Question(text=f"{number}?", ground_truth="4", ability="math", data_source="s"))


@dataclass
class Numbers:
    """Makes items."""

    settings: int
    name: str = "numbers"

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        yield Dropped(reason="bad row", detail="no JSON")
        for number in range(self.settings):
            yield item(number)


@dataclass
class Odd:
    """Keeps every other item."""

    settings: Any = "odd"
    name: str = "odd"
    runs: list[int] = field(default_factory=list[int])
    breaks: bool = False

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        self.runs.append(1)
        for number, one in enumerate(items):
            if self.breaks and number == 2:
                raise OprimeError("no more")
            yield replace(one, pass_rate=0.5) if number % 2 else Dropped(reason="even", item=one, detail=str(number))


async def run(stages: list[Stage], folder: Path) -> list[StageResult]:
    return [result async for result in run_stages(stages, folder, lambda stage, number: None)]


async def test_what_is_kept_goes_on_and_what_is_dropped_is_counted_and_written(tmp_path: Path) -> None:
    first, second = await run([Numbers(3), Odd()], tmp_path)
    assert (first.came, first.kept, first.dropped) == (4, 3, {"bad row": 1})
    assert (second.came, second.kept, second.dropped) == (3, 1, {"even": 2})
    assert list(items_in(kept_file(tmp_path, "odd"))) == [replace(item(1), pass_rate=0.5)]
    dropped = [json.loads(line) for line in dropped_file(tmp_path, "odd").read_text().splitlines()]
    assert [(row["reason"], row["detail"], row["text"]) for row in dropped] == [("even", "0", "0?"), ("even", "2", "2?")]


async def test_a_stage_is_passed_over_while_settings_and_input_are_the_same(tmp_path: Path) -> None:
    odd = Odd()
    await run([Numbers(3), odd], tmp_path)
    again = await run([Numbers(3), odd], tmp_path)
    assert [result.reused for result in again] == [True, True]
    assert again[1].dropped == {"even": 2}
    assert len(odd.runs) == 1
    # Other input, other settings, a lost file.
    assert [result.reused for result in await run([Numbers(5), odd], tmp_path)] == [False, False]
    odd.settings = "other"
    assert [result.reused for result in await run([Numbers(5), odd], tmp_path)] == [True, False]
    kept_file(tmp_path, "odd").unlink()
    assert [result.reused for result in await run([Numbers(5), odd], tmp_path)] == [True, False]


async def test_an_interrupted_stage_leaves_nothing_half_done(tmp_path: Path) -> None:
    odd = Odd(breaks=True)
    with pytest.raises(OprimeError, match="no more"):
        await run([Numbers(3), odd], tmp_path)
    assert not kept_file(tmp_path, "odd").exists()
    odd.breaks = False
    assert [result.reused for result in await run([Numbers(3), odd], tmp_path)] == [True, False]


async def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    kept_file(tmp_path, "odd").with_name("odd.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(OprimeError, match=r"odd.jsonl cannot be written: No space left on device .*make room, then run the same command"):
        await run([Numbers(3), Odd()], tmp_path)
    kept_file(tmp_path, "odd").with_name("odd.jsonl.part").unlink()
    assert [result.reused for result in await run([Numbers(3), Odd()], tmp_path)] == [True, False]


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    kept_file(tmp_path, "numbers").write_text('{"a": 1}\n')
    with pytest.raises(OprimeError, match="cannot be read as the result of a stage"):
        list(items_in(kept_file(tmp_path, "numbers")))


def test_a_log_knows_what_was_written_and_writes_over_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    log = RecordLog(path)
    log.append("a", {"text": "é"})
    log.append("b", 1)
    log.append("b", 2)
    log.close()
    with path.open("ab") as stream:
        stream.write(b'{"key": "c", "val')
    log = RecordLog(path)
    assert ("c" in log, log["a"], log["b"]) == (False, {"text": "é"}, 2)
    log.append("c", "\ud800")
    assert log["c"] == "\ud800"
    log.close()
    assert [RecordLog(path)[key] for key in "abc"] == [{"text": "é"}, 2, "\ud800"]


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UnusableInputError, match="line 1 is no record of this command"):
        RecordLog(tmp_path / "log.jsonl")


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_that_cannot_grow_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RecordLog(path)
    log.append("a", 1)
    # Of the next line only a part fits.
    with files_no_longer_than(path.stat().st_size + 5), pytest.raises(OprimeError, match=r"log.jsonl cannot be written: .* make room"):
        log.append("b", 2)
    log.close()
    log = RecordLog(path)
    assert ("b" in log, log["a"]) == (False, 1)
    log.append("b", 2)
    log.close()
    assert [RecordLog(path)[key] for key in "ab"] == [1, 2]
