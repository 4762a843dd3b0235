"""Files that one process holds, and the commands that hold one for their output."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oprime.runtime.errors import OprimeError
from oprime_cli.lock_file import sole_holder, sole_writer
from oprime_cli.main import main
from oprime_cli.running.failures import BusyError

HOLDER = """
import sys
from pathlib import Path
from oprime_cli.lock_file import sole_holder, sole_writer
with sole_holder(Path(sys.argv[1]), busy="held", remedy="wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "lock"


@pytest.fixture
def holder(lock: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds the lock until its input ends."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_lock_is_refused_while_another_holds_it_and_taken_over_from_the_dead(lock: Path, holder: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(BusyError, match=rf"^in use \(process {holder.pid}\): wait$"), sole_holder(lock, busy="in use", remedy="wait"):
        pass
    holder.kill()
    holder.wait()
    with sole_holder(lock, busy="in use", remedy="wait"):
        assert f'"pid": {os.getpid()}' in lock.read_text()
    assert lock.read_text() == "{}"


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OprimeError, match=r"file/lock cannot be written: "), sole_holder(tmp_path / "file" / "lock", busy="", remedy=""):
        pass


PREPARE = """
folder = "out"
[[sources]]
file = "rows.jsonl"
"""
ACTIONS = """
output = "out/demonstrations.jsonl"
[[sources]]
file = "rows.jsonl"
[model]
url = "http://127.0.0.1:1/v1"
name = "nobody"
"""


@pytest.mark.parametrize(
    ("words", "lock_name", "said"),
    [
        (["data", "prepare", "prepare.toml"], "lock", "another `oprime data prepare` is writing to out"),
        (
            ["data", "actions", "actions.toml"],
            "demonstrations.jsonl.lock",
            "another `oprime data actions` is writing to out/demonstrations.jsonl",
        ),
        (["eval", "rows.jsonl", "--tasks", "rows.jsonl", "--out", "out"], "lock", "another `oprime eval` is writing to out"),
        (
            ["verify", "rows.jsonl", "--out", "out/some.jsonl", "--fresh"],
            "some.jsonl.lock",
            "another `oprime verify` is writing to out/some",
        ),
        (
            ["verify", "--again", "rows.jsonl", "--out", "out/some.jsonl"],
            "some.jsonl.lock",
            "another `oprime verify` is writing to out/some",
        ),
        (["score", "rows.jsonl", "--out", "out/some.jsonl", "--fresh"], "some.jsonl.lock", "another `oprime score` is writing to out/some"),
        (["best-of-n", "rows.jsonl", "--out", "out/some.jsonl"], "some.jsonl.lock", "another `oprime best-of-n` is writing to out/some"),
    ],
)
def test_a_second_command_on_the_same_output_is_refused(
    words: list[str], lock_name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "1 + 1?", "answer": "2", "problem": "0", "response": "2"}\n')
    Path("prepare.toml").write_text(PREPARE)
    Path("actions.toml").write_text(ACTIONS)
    with sole_holder(Path("out") / lock_name, busy="", remedy=""):
        assert main(words) == 1
    found = capsys.readouterr().err
    assert said in found
    assert f" (process {os.getpid()}): wait for it, or " in found
    assert [path.name for path in Path("out").iterdir()] == [lock_name]


@pytest.mark.parametrize("name", [None, "pipe"])
def test_where_results_go_to_no_file_nothing_is_held(name: str | None, tmp_path: Path) -> None:
    output = None if name is None else tmp_path / name
    if output is not None:
        os.mkfifo(output)
    with sole_writer(output, "oprime score"), sole_writer(output, "oprime score"):
        assert [path.name for path in tmp_path.iterdir()] == ([] if name is None else [name])


def test_the_lock_of_a_file_of_results_goes_when_it_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        with sole_writer(tmp_path / "out.jsonl", "oprime score"):
            assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.lock"]
            with pytest.raises(BusyError, match="another `oprime score` is writing"), sole_writer(tmp_path / "out.jsonl", "oprime score"):
                pass
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, locks = tmp_path / "lock", 0

    def flock(handle: int, how: int) -> None:
        nonlocal locks
        locks += 1
        if locks == 1:  # Its holder ends between the opening and the locking.
            lock.unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with sole_holder(lock, busy="", remedy=""):
        assert locks == 2
        assert f'"pid": {os.getpid()}' in lock.read_text()
