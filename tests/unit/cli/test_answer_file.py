"""Which rows are asked for again when an output is there already, and what becomes of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from oprime_cli.scoring.answer_file import Answer, Row, Tally, answer_file, summary

OPTIONS = {"model": "prm", "sequence_reduction": "sum"}


class Lengths:
    """Answers with the length of a response; fails for an empty one, and stops answering after `most` requests."""

    def __init__(self, most: int = 100) -> None:
        self.asked: list[Any] = []
        self._most = most

    async def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        if self._most == 0:
            raise ConnectionError("gone")
        self._most -= 1
        self.asked += [row.id for row in rows]
        return [{"id": row.id} | ({"reward": len(text)} if (text := row.value["response"]) else {"error": "empty"}) for row in rows]


def rows_of(*responses: str) -> list[dict[str, Any]]:
    return [{"id": place, "response": response} for place, response in enumerate(responses)]


async def run(folder: Path, rows: list[dict[str, Any]], ask: Lengths, **options: str) -> Tally:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return await answer_file(
        source,
        folder / "out.jsonl",
        lambda row, answer: None,
        ask,
        lambda value: "" if "response" in value else "none",
        lambda tally: None,
        options={**OPTIONS, **options},
        window=2,
    )


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


async def test_rows_that_failed_or_changed_are_asked_anew_and_the_others_are_kept(tmp_path: Path) -> None:
    await run(tmp_path, rows_of("a", "", "ccc", "dd", "e"), Lengths())
    marked = [{**answer, "kept": True} for answer in written(tmp_path)]
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked), encoding="utf-8")
    ask = Lengths()
    tally = await run(tmp_path, [*rows_of("a", "", "ccc", "changed", "e"), {"id": 5, "response": "new"}], ask)
    assert ask.asked == [1, 3, 5]
    assert [(answer["id"], answer.get("reward"), answer.get("kept")) for answer in written(tmp_path)] == [
        (0, 1, True),
        (1, None, None),
        (2, 3, True),
        (3, 7, None),
        (4, 1, True),
        (5, 3, None),
    ]
    assert (tally.rows, tally.reused, tally.anew, tally.failed) == (6, 3, 2, 1)
    assert "; 3 answered earlier; 2 asked anew, as they had failed, or their rows or the options changed; 1 could" in summary(tally)


async def test_other_options_and_outputs_without_fingerprints_are_asked_anew(tmp_path: Path) -> None:
    rows = rows_of("a", "bb", "ccc")
    await run(tmp_path, rows, Lengths())
    assert (await run(tmp_path, rows, Lengths(), sequence_reduction="mean")).anew == 3
    assert (await run(tmp_path, rows, Lengths(), sequence_reduction="mean")).reused == 3
    old = [{name: value for name, value in answer.items() if name != "fingerprint"} for answer in written(tmp_path)]
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old), encoding="utf-8")
    assert (await run(tmp_path, rows, Lengths(), sequence_reduction="mean")).anew == 3


@pytest.mark.parametrize("most", [0, 1])
async def test_a_run_that_ends_early_loses_no_answer_behind_the_first_that_failed(most: int, tmp_path: Path) -> None:
    rows = rows_of("a", "", "ccc", "", "eeeee")
    await run(tmp_path, rows, Lengths())
    before = written(tmp_path)
    with pytest.raises(ConnectionError):
        await run(tmp_path, rows_of("a", "b", "ccc", "d", "eeeee"), Lengths(most))
    after = written(tmp_path)
    assert [answer["id"] for answer in after] == [0, 1, 2, 3, 4]
    assert after[1].get("reward") == (1 if most else None)
    assert [after[place] for place in (0, 2, 3, 4)] == [before[place] for place in (0, 2, 3, 4)]
    ask = Lengths()
    await run(tmp_path, rows_of("a", "b", "ccc", "d", "eeeee"), ask)
    assert ask.asked == ([3] if most else [1, 3])


async def test_a_row_that_cannot_be_asked_is_told_again_and_is_not_counted_as_asked(tmp_path: Path) -> None:
    rows = [*rows_of("a"), {"id": 1}]
    await run(tmp_path, rows, Lengths())
    tally = await run(tmp_path, rows, ask := Lengths())
    assert (tally.reused, tally.anew, tally.failed, ask.asked) == (1, 0, 1, [])


@pytest.mark.parametrize(("rows", "shown"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_one_row_is_no_rows(rows: int, shown: str) -> None:
    assert summary(Tally(rows=rows)) == shown
