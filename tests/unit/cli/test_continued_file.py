"""Whenever a command ends that goes on with an output, no row is lost that stood in it."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from oprime.runtime.errors import UnusableInputError
from oprime_cli.continued_file import continued, earlier_of, line_of, rows_in

BEFORE: list[dict[str, Any]] = [{"id": place, "by": "earlier run"} for place in range(4)]


def new(place: int) -> dict[str, Any]:
    return {"id": place, "by": "this run"}


def file_of(folder: Path, rows: list[dict[str, Any]], more: str = "") -> Path:
    folder.mkdir()
    out = folder / "out.jsonl"
    out.write_text("".join(map(line_of, rows)) + more, encoding="utf-8")
    return out


@pytest.mark.parametrize("reached", range(5))
def test_a_killed_run_leaves_its_rows_and_those_that_it_did_not_reach(reached: int, tmp_path: Path) -> None:
    out = file_of(tmp_path / "live", BEFORE, '{"id": 4, "b')
    assert rows_in(out) == BEFORE
    with continued(out, BEFORE, 1) as write:
        for place in range(1, reached):
            write(new(place))
        # What lies on the disk now is what kill -9 would leave.
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
    expected = [BEFORE[0], *map(new, range(1, reached)), *BEFORE[max(reached, 1) :]]
    killed = tmp_path / "killed/out.jsonl"
    assert rows_in(killed) == expected
    with continued(killed, expected, 4) as write:
        write(new(4))
    assert [path.name for path in killed.parent.iterdir()] == ["out.jsonl"]
    assert rows_in(killed) == [*expected, new(4)]


def test_a_run_that_fails_puts_back_what_it_did_not_reach(tmp_path: Path) -> None:
    out = file_of(tmp_path / "live", BEFORE)
    with contextlib.suppress(KeyboardInterrupt), continued(out, BEFORE, 0) as write:
        write(new(0))
        raise KeyboardInterrupt
    assert rows_in(out) == [new(0), *BEFORE[1:]]
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_what_a_killed_run_left_is_forgotten_with_its_output(tmp_path: Path) -> None:
    out = file_of(tmp_path / "live", [])
    earlier_of(out).write_text("".join(map(line_of, BEFORE)), encoding="utf-8")
    assert rows_in(out) == BEFORE
    out.unlink()
    assert rows_in(out) == []
    with continued(out, [], 0) as write:
        write(new(0))
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
    assert rows_in(tmp_path / "killed/out.jsonl") == rows_in(out) == [new(0)]


def test_what_is_no_output_is_refused_and_where_nothing_stays_there_is_none(tmp_path: Path) -> None:
    out = file_of(tmp_path / "live", BEFORE[:1], "[1]\n")
    with pytest.raises(UnusableInputError, match=r"out\.jsonl, line 2: this is no output of this command .* or add --fresh"):
        rows_in(out)
    assert rows_in(None) == rows_in(Path("/dev/null")) == rows_in(tmp_path / "absent") == []
    with continued(Path("/dev/null"), [], 0) as write:
        write(new(0))
    assert not earlier_of(Path("/dev/null")).exists()
