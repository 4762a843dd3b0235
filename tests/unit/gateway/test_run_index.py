import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oprime_gateway.run_index import IndexUnwritableError, RunIndex, RunIndexes, Wanted

BUDGET_S = 60.0


def rollout(index: int, outcome: float, rewards: list[float], **fields: Any) -> dict[str, Any]:
    return {
        "index": index,
        "outcome_reward": outcome,
        "outcome_status": "scored",
        "finish_reason": "stop",
        "tokens": ["a"] * len(rewards),
        "process_rewards": rewards,
        "behaviour_logprobs": [-0.1] * len(rewards),
        **fields,
    }


def sample(folder: Path, step: int, *groups: dict[str, Any]) -> Path:
    path = folder / "samples" / f"step-{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": step, "prm_version": step, **group}) + "\n" for group in groups), encoding="utf-8")
    return path


def group(group_id: int, *rollouts: dict[str, Any]) -> dict[str, Any]:
    return {"group_id": group_id, "prompt": f"prompt {group_id}", "rollouts": list(rollouts)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    sample(folder, 1, group(10, rollout(0, 1.0, [0.5, 0.25]), rollout(1, 0.0, [-1.0])))
    sample(
        folder,
        2,
        group(20, rollout(0, 0.0, [1.0, -0.25, 0.5]), rollout(1, 1.0, [-2.0, 0.5, 0.1, 0.1], finish_reason="length")),
        group(21, rollout(0, 0.0, [], outcome_status="invalid")),
    )
    return folder


@pytest.fixture
def index(run: Path, tmp_path: Path) -> RunIndex:
    return RunIndex(run, tmp_path / "index.sqlite")


def names(index: RunIndex, wanted: Wanted, *, offset: int = 0, limit: int = 50) -> list[tuple[int, int]]:
    found = index.rollouts(wanted, offset=offset, limit=limit, budget_s=BUDGET_S)
    return [(one.group_id, one.index) for one in found.rollouts]


def test_a_sum_of_rewards_has_no_more_decimals_than_they_have(tmp_path: Path) -> None:
    # In binary 0.1 + 0.2 is 0.30000000000000004.
    sample(tmp_path, 1, group(10, rollout(0, 1.0, [0.1, 0.2])))
    found = RunIndex(tmp_path, tmp_path / "index.sqlite").rollouts(Wanted(), offset=0, limit=1, budget_s=BUDGET_S)
    assert found.rollouts[0].process_reward == 0.3


def test_the_newest_step_comes_first(index: RunIndex) -> None:
    assert names(index, Wanted()) == [(20, 0), (20, 1), (21, 0), (10, 0), (10, 1)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(step_to=1), [(10, 0), (10, 1)]),
        (Wanted(step_from=2, right=True), [(20, 1)]),
        (Wanted(right=False), [(20, 0), (21, 0), (10, 1)]),
        (Wanted(reason="length"), [(20, 1)]),
        (Wanted(reason="invalid"), [(21, 0)]),
        (Wanted(length_from=2, length_to=3), [(20, 0), (10, 0)]),
        # 1 - 0.25 + 0.5 > 0, and wrong.
        (Wanted(disagreement="prm_good"), [(20, 0)]),
        # -2 + 0.5 + 0.1 + 0.1 < 0, and right.
        (Wanted(disagreement="prm_bad"), [(20, 1)]),
    ],
)
def test_every_condition_is_obeyed(index: RunIndex, wanted: Wanted, expected: list[tuple[int, int]]) -> None:
    assert names(index, wanted) == expected


@pytest.mark.parametrize(
    ("sort", "first"),
    [("step", (10, 0)), ("outcome", (10, 1)), ("length", (21, 0)), ("reward", (20, 1)), ("lowest", (21, 0))],
)
def test_every_order_has_the_least_first_when_asked(index: RunIndex, sort: str, first: tuple[int, int]) -> None:
    assert names(index, Wanted(sort=sort, descending=False))[0] == first


def test_an_order_that_is_none_is_refused(index: RunIndex) -> None:
    with pytest.raises(ValueError, match="sort is 'prompt; DROP': use one of step, outcome"):
        names(index, Wanted(sort="prompt; DROP"))


def test_pages_follow_each_other(index: RunIndex) -> None:
    assert names(index, Wanted(), offset=2, limit=2) == [(21, 0), (10, 0)]


def test_what_is_known_of_a_rollout(index: RunIndex) -> None:
    (one,) = index.rollouts(Wanted(reason="length"), offset=0, limit=1, budget_s=BUDGET_S).rollouts
    assert (one.step, one.outcome_reward, one.outcome_status, one.finish_reason, one.tokens) == (2, 1.0, "scored", "length", 4)
    assert (one.process_reward, one.lowest_reward, one.prm_version, one.prompt) == (pytest.approx(-1.3), -2.0, 2, "prompt 20")


def test_actions_of_a_rollout_are_known_where_it_took_some(run: Path, tmp_path: Path) -> None:
    acted = [rollout(0, 1.0, [0.5], actions=["ASSESS", "OUTPUT"], keeps_action_form=True), rollout(1, 0.0, [0.5], actions=["PIVOT"])]
    sample(run, 3, group(30, *acted, rollout(2, 0.0, [0.5])))
    found = RunIndex(run, tmp_path / "index.sqlite").rollouts(Wanted(step_from=3, descending=False), offset=0, limit=9, budget_s=BUDGET_S)
    assert [(one.actions, one.keeps_action_form) for one in found.rollouts] == [
        (["ASSESS", "OUTPUT"], True),
        (["PIVOT"], False),
        ([], None),
    ]


def test_a_group_is_read_from_its_place_in_the_file(index: RunIndex) -> None:
    found = index.siblings(2, 21)
    assert [one.index for one in found.siblings] == [0]
    assert (found.line["group_id"], found.line["prompt"]) == (21, "prompt 21")
    with pytest.raises(LookupError, match="no sampled group 9 at train step 2"):
        index.siblings(2, 9)
    with pytest.raises(LookupError, match="no sampled group 1 at train step 7"):
        index.siblings(7, 1)


def test_a_group_stands_between_those_before_and_after_it_also_where_the_index_was_empty(index: RunIndex, run: Path) -> None:
    sample(run, 9, group(90, rollout(0, 1.0, [0.5])))
    assert [(found.before, found.after) for found in (index.siblings(9, 90), index.siblings(2, 20))] == [
        ((2, 21), None), ((1, 10), (2, 21)),
    ]  # fmt: skip
    assert (index.siblings(2, 21).after, index.siblings(1, 10).before) == ((9, 90), None)


def test_what_the_learner_adds_is_joined_by_group_and_index(index: RunIndex, run: Path) -> None:
    learned = {
        "step": 2,
        "group_id": 20,
        "rollouts": [{"index": 1, "advantages": [1, 2, 3, 4], "policy_logprobs": [-1.0] * 4, "tokens": []}],
    }
    (run / "samples" / "learned-000002.jsonl").write_text(f"half\n{json.dumps(learned)}\n", encoding="utf-8")
    first, second = index.siblings(2, 20).line["rollouts"]
    assert "advantages" not in first
    assert (second["advantages"], second["policy_logprobs"], second["tokens"]) == ([1, 2, 3, 4], [-1.0] * 4, ["a"] * 4)
    assert index.rollouts(Wanted(), offset=0, limit=50, budget_s=BUDGET_S).files == 2


def test_files_that_are_new_changed_or_gone_are_noticed(index: RunIndex, run: Path) -> None:
    assert len(names(index, Wanted())) == 5
    sample(run, 3, group(30, rollout(0, 1.0, [0.1])))
    sample(run, 2, group(22, rollout(0, 1.0, [0.1])))
    (run / "samples" / "step-000001.jsonl").unlink()
    assert names(index, Wanted()) == [(30, 0), (22, 0)]


def test_without_time_one_file_is_read_per_question_newest_first(index: RunIndex) -> None:
    first = index.rollouts(Wanted(), offset=0, limit=50, budget_s=0.0)
    assert ([one.step for one in first.rollouts], first.files, first.files_read) == ([2, 2, 2], 2, 1)
    second = index.rollouts(Wanted(), offset=0, limit=50, budget_s=0.0)
    assert (second.total, second.files_read) == (5, 2)


def test_the_index_stays_on_disk(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    RunIndex(run, path).rollouts(Wanted(), offset=0, limit=1, budget_s=BUDGET_S)
    # A file that is read again would be found to be broken.
    facts = (run / "samples" / "step-000002.jsonl").stat()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT size, modified FROM files WHERE name = 'step-000002.jsonl'").fetchone() == (
            facts.st_size,
            facts.st_mtime_ns,
        )
    database.close()
    assert RunIndex(run, path).rollouts(Wanted(), offset=0, limit=1, budget_s=0.0).total == 5


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look like one" * 40, b""])
def test_a_damaged_index_is_made_anew(index: RunIndex, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.sqlite").write_bytes(content)
    assert len(names(index, Wanted())) == 5


def test_an_index_of_another_release_is_made_anew(index: RunIndex, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "index.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.execute("CREATE TABLE rollouts (other INTEGER)")
    database.close()
    assert len(names(index, Wanted())) == 5


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_with_its_place_and_what_to_do_and_nothing_is_lost(index: RunIndex, run: Path, tmp_path: Path) -> None:
    assert len(names(index, Wanted())) == 5
    before = (tmp_path / "index.sqlite").stat().st_size
    sample(run, 3, *(group(number, rollout(0, 1.0, [0.5])) for number in range(300, 400)))
    with files_of_at_most(before), pytest.raises(IndexUnwritableError, match=f"written to {tmp_path} .*XDG_CACHE_HOME on another disk"):
        names(index, Wanted())
    assert len(names(index, Wanted(), limit=500)) == 105


def test_an_index_that_another_process_writes_is_not_taken_for_damaged(run: Path, tmp_path: Path) -> None:
    index = RunIndex(run, tmp_path / "index.sqlite", busy_s=0.01)
    assert len(names(index, Wanted())) == 5
    place = (tmp_path / "index.sqlite").stat().st_ino
    other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            names(index, Wanted())
    finally:
        other.close()
    assert (tmp_path / "index.sqlite").stat().st_ino == place


def test_lines_that_are_no_group_are_passed_over(index: RunIndex, run: Path) -> None:
    large = '{"step": 1' + "0" * 30 + ', "group_id": 1, "rollouts": [{"index": 0}]}'
    whole = '{"step": 4, "group_id": 40, "rollouts": [1, {"index": 0, "process_rewards": [NaN, 1.5, 1e999], "tokens": ["a", "b"]}]}'
    text = "\n".join(("[]", large, whole, '{"rollouts": 3}', "{"))
    (run / "samples" / "step-000004.jsonl").write_text(text, encoding="utf-8")
    (one,) = index.rollouts(Wanted(step_from=4), offset=0, limit=5, budget_s=BUDGET_S).rollouts
    assert (one.outcome_reward, one.process_reward, one.tokens) == (None, 1.5, 2)
    assert index.siblings(4, 40).line["group_id"] == 40


def test_a_run_without_samples_has_no_rollouts(tmp_path: Path) -> None:
    found = RunIndex(tmp_path / "none", tmp_path / "index.sqlite").rollouts(Wanted(), offset=0, limit=5, budget_s=1.0)
    assert (found.rollouts, found.total, found.files) == ([], 0, 0)


def metrics(folder: Path, *rows: dict[str, Any], tail: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")


def step(number: int, loss: float) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": loss, "word": "x", "yes": True}


def test_curves_cover_the_whole_run_evenly_with_its_first_and_last_row(index: RunIndex, run: Path) -> None:
    metrics(run, *(step(number, number / 2) for number in range(1, 101)))
    series = index.series("step", ["loss", "absent"], points=4)
    assert (series.steps, series.rows, series.names) == ([1, 25, 50, 75, 100], 100, ["loss"])
    assert series.values == {"loss": [0.5, 12.5, 25.0, 37.5, 50.0], "absent": [None] * 5}
    assert index.series("evaluation", [], points=4).steps == []


def test_a_step_that_was_repeated_counts_with_its_last_row_and_a_half_written_row_waits(index: RunIndex, run: Path) -> None:
    metrics(run, step(1, 0.5), step(2, 0.5), step(2, 0.25), tail='{"kind": "step", "st')
    assert index.series("step", ["loss"], points=10).values == {"loss": [0.5, 0.25]}
    metrics(run, step(1, 0.5), step(2, 0.5), step(2, 0.25), step(3, 0.125))
    assert index.series("step", ["loss"], points=10).steps == [1, 2, 3]


def test_a_file_that_was_cut_back_and_grew_again_is_read_anew(index: RunIndex, run: Path) -> None:
    metrics(run, step(1, 0.5), step(2, 0.5), step(3, 0.5))
    assert index.series("step", ["loss"], points=10).steps == [1, 2, 3]
    metrics(run, step(1, 0.5), step(2, 0.75), step(3, 0.75), step(4, 0.75))
    assert index.series("step", ["loss"], points=10).values["loss"] == [0.5, 0.75, 0.75, 0.75]
    metrics(run, step(1, 0.5))
    assert index.series("step", ["loss"], points=10).steps == [1]
    (run / "metrics.jsonl").unlink()
    assert index.series("step", ["loss"], points=10).steps == []


def test_each_run_has_its_own_index_in_a_folder_of_this_user_alone(tmp_path: Path, run: Path) -> None:
    indexes = RunIndexes(tmp_path / "cache")
    sample(tmp_path / "other", 1, group(1, rollout(0, 1.0, [1.0])))
    assert len(names(indexes.of(run), Wanted())) == 5
    assert names(indexes.of(tmp_path / "other"), Wanted()) == [(1, 0)]
    assert indexes.of(run) is indexes.of(run)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path, run: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert len(names(RunIndexes(open_to_all).of(run), Wanted())) == 5
    (tmp_path / "file").touch()
    assert len(names(RunIndexes(tmp_path / "file").of(run), Wanted())) == 5
    assert list(open_to_all.iterdir()) == []
