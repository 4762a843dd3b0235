"""A checkpoint is there completely or not at all."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oprime.lm.checkpoints import (
    MARKER,
    begin_part,
    checkpoint_root,
    complete_part,
    is_complete,
    newest_complete,
    newest_for_run,
    parts_of,
    prune_checkpoints,
    remove_newer,
    step_directory,
    verify_part,
)
from oprime.runtime.errors import CheckpointError
from oprime.runtime.settings import AlgorithmSection

PARTS = ("policy", "prm", "coordinator")


def write_part(root: Path, step: int, part: str, content: bytes = b"weights") -> Path:
    directory = begin_part(root, step, part)
    (directory / "shards").mkdir()
    (directory / "shards" / "state.bin").write_bytes(content)
    (directory / "engine.json").write_text("{}", encoding="utf-8")
    return complete_part(directory, step)


def write_all(root: Path, *steps: int) -> None:
    for step in steps:
        for part in PARTS:
            write_part(root, step, part)


def test_a_part_lies_where_the_run_folder_says(tmp_path: Path) -> None:
    part = write_part(checkpoint_root(tmp_path), 10, "policy")
    assert part == tmp_path / "checkpoints" / "step-000010" / "policy"
    assert sorted(file.name for file in part.iterdir()) == [MARKER, "engine.json", "shards"]


def test_the_marker_lists_every_file_with_its_size(tmp_path: Path) -> None:
    marker = verify_part(write_part(tmp_path, 10, "policy"))
    assert marker.step == 10
    assert {name: entry.bytes for name, entry in marker.files.items()} == {"engine.json": 2, "shards/state.bin": 7}


def test_no_root_means_no_checkpoint(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent", PARTS) is None
    assert prune_checkpoints(tmp_path / "absent", PARTS, keep=1) == []


def test_the_newest_checkpoint_with_all_parts_counts(tmp_path: Path) -> None:
    write_all(tmp_path, 5, 10)
    write_part(tmp_path, 15, "policy")
    assert newest_complete(tmp_path, PARTS) == (10, step_directory(tmp_path, 10))
    assert newest_complete(tmp_path, ("policy",)) == (15, step_directory(tmp_path, 15))


def test_a_run_with_a_critic_goes_on_from_the_newest_checkpoint_that_has_one(tmp_path: Path) -> None:
    assert newest_for_run(tmp_path, ("policy", "critic")) is None
    for step in (5, 10):
        write_part(tmp_path, step, "policy")
    assert newest_for_run(tmp_path, ("policy",)) == (10, step_directory(tmp_path, 10))
    with pytest.raises(CheckpointError, match=r"step-000010 holds no critic, which algorithm.estimator needs: go on with"):
        newest_for_run(tmp_path, ("policy", "critic"))
    write_part(tmp_path, 5, "critic")
    assert newest_for_run(tmp_path, ("policy", "critic")) == (5, step_directory(tmp_path, 5))


def test_steps_sort_as_numbers_beyond_six_digits(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        write_part(tmp_path, step, "policy")
    assert newest_complete(tmp_path, ("policy",)) == (1_000_000, tmp_path / "step-1000000")


def test_a_part_that_was_only_begun_does_not_exist(tmp_path: Path) -> None:
    directory = begin_part(tmp_path, 5, "policy")
    (directory / "state.bin").write_bytes(b"half")
    assert newest_complete(tmp_path, ("policy",)) is None


def test_beginning_again_removes_what_was_left(tmp_path: Path) -> None:
    (begin_part(tmp_path, 5, "policy") / "leftover.bin").write_bytes(b"half")
    again = begin_part(tmp_path, 5, "policy")
    (again / "state.bin").write_bytes(b"whole")
    assert set(verify_part(complete_part(again, 5)).files) == {"state.bin"}


def test_a_part_written_twice_holds_the_second(tmp_path: Path) -> None:
    write_part(tmp_path, 5, "policy", b"first")
    part = write_part(tmp_path, 5, "policy", b"second")
    verify_part(part)
    assert (part / "shards" / "state.bin").read_bytes() == b"second"
    assert [entry.name for entry in part.parent.iterdir()] == ["policy"]


def test_while_a_part_is_written_again_the_first_one_counts(tmp_path: Path) -> None:
    write_part(tmp_path, 5, "policy")
    begin_part(tmp_path, 5, "policy")
    assert newest_complete(tmp_path, ("policy",)) == (5, step_directory(tmp_path, 5))


def test_only_a_begun_directory_can_be_completed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not come from begin_part"):
        complete_part(tmp_path, 5)


@pytest.mark.parametrize("damage", ["no marker", "half a marker", "a shorter file", "no file"])
def test_a_damaged_part_is_passed_over(tmp_path: Path, damage: str) -> None:
    write_part(tmp_path, 5, "policy")
    part = write_part(tmp_path, 10, "policy")
    if damage == "no marker":
        (part / MARKER).unlink()
    elif damage == "half a marker":
        (part / MARKER).write_text((part / MARKER).read_text(encoding="utf-8")[:20], encoding="utf-8")
    elif damage == "a shorter file":
        (part / "shards" / "state.bin").write_bytes(b"weight")
    else:
        (part / "shards" / "state.bin").unlink()
    assert not is_complete(part)
    assert newest_complete(tmp_path, ("policy",)) == (5, step_directory(tmp_path, 5))
    with pytest.raises(CheckpointError, match="checkpoint"):
        verify_part(part)


def test_a_flipped_bit_is_found_before_loading(tmp_path: Path) -> None:
    part = write_part(tmp_path, 5, "policy", b"weights")
    (part / "shards" / "state.bin").write_bytes(b"weighty")
    with pytest.raises(CheckpointError, match=r"state\.bin does not have its checksum"):
        verify_part(part)


def test_a_checkpoint_without_a_prm_is_complete_where_the_run_has_none(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        for part in ("policy", "coordinator"):
            write_part(tmp_path, step, part)
    with_prm, without, ppo = (
        parts_of(AlgorithmSection.model_validate(options))
        for options in ({}, {"process_weight": 0}, {"process_weight": 0, "estimator": "ppo"})
    )
    assert newest_for_run(tmp_path, with_prm) is None
    assert newest_for_run(tmp_path, without) == (15, step_directory(tmp_path, 15))
    with pytest.raises(CheckpointError, match="holds no critic"):
        newest_for_run(tmp_path, ppo)
    assert prune_checkpoints(tmp_path, without, 2) == [5]


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    write_all(tmp_path, 5, 10, 15)
    assert prune_checkpoints(tmp_path, PARTS, 2) == [5]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-000010", "step-000015"]


def test_pruning_removes_incomplete_ones_only_when_they_are_older(tmp_path: Path) -> None:
    write_part(tmp_path, 5, "policy")
    write_all(tmp_path, 10)
    write_part(tmp_path, 15, "prm")
    assert prune_checkpoints(tmp_path, PARTS, 1) == [5]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-000010", "step-000015"]


def test_pruning_without_a_complete_checkpoint_removes_nothing(tmp_path: Path) -> None:
    write_part(tmp_path, 5, "policy")
    assert prune_checkpoints(tmp_path, PARTS, 1) == []
    assert step_directory(tmp_path, 5).is_dir()


def test_pruning_must_keep_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        prune_checkpoints(tmp_path, PARTS, 0)


def test_going_back_removes_everything_newer(tmp_path: Path) -> None:
    write_all(tmp_path, 5, 10)
    write_part(tmp_path, 15, "policy")
    assert remove_newer(tmp_path, 5) == [10, 15]
    assert newest_complete(tmp_path, PARTS) == (5, step_directory(tmp_path, 5))


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from oprime.lm import checkpoints

root, calls = Path(sys.argv[1]), int(sys.argv[2])
left = [calls]
def tick(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

part = checkpoints.begin_part(root, 5, "policy")
(part / "state.bin").write_bytes(b"new " * 100)
sys.addaudithook(tick)
checkpoints.complete_part(part, 5)
left[0] = 1_000_000
"""


def test_kill_at_any_file_operation_leaves_a_whole_part_or_none(tmp_path: Path) -> None:
    survived = False
    seen: set[bool] = set()
    for calls in range(0, 40, 2):
        root = tmp_path / str(calls)
        finished = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(root), str(calls)], check=False, timeout=60)
        newest = newest_complete(root, ("policy",))
        if newest is not None:
            verify_part(newest[1] / "policy")
        seen.add(newest is not None)
        if finished.returncode == 0:
            survived = True
            break
        assert finished.returncode == -signal.SIGKILL
    assert survived
    assert seen == {True, False}


def test_a_full_disk_is_named_with_the_space_that_is_left(tmp_path: Path) -> None:
    write_part(tmp_path, 5, "policy")
    part = begin_part(tmp_path, 10, "policy")
    (part / "state.bin").write_bytes(b"x" * 64)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"\.policy\.partial cannot be written: .*MiB are free") as caught:
            complete_part(part, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert newest_complete(tmp_path, ("policy",)) == (5, step_directory(tmp_path, 5))


def test_reading_checkpoints_needs_no_torch() -> None:
    code = "import sys, oprime.lm.checkpoints, oprime.lm.tokenizers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=dict(os.environ))
