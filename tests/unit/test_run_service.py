"""A container's first process: deploy/docker/run_service.py, and the health check beside it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"
LISTENS = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n(folder / 'listens').touch()\ntime.sleep(600)"

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a container with a service of this code, and returns once the service has begun."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "run.toml").write_text("steps = 1\n", encoding="utf-8")
    running: list[subprocess.Popen[bytes]] = []

    def started(code: str) -> "subprocess.Popen[bytes]":
        beginning = "import pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1]).parent\n"
        (tmp_path / "oprime_tiny.py").write_text(f"{beginning}(folder / 'began').open('a').write('x')\n{code}\n", encoding="utf-8")
        process = subprocess.Popen([sys.executable, DOCKER / "run_service.py", "oprime_tiny", tmp_path / "run.toml"])
        running.append(process)
        wait_until(lambda: begun(tmp_path) == 1)
        return process

    yield started
    for process in running:
        process.kill()
        process.wait()


def begun(folder: Path) -> int:
    """How often the service was started."""
    return len((folder / "began").read_text(encoding="utf-8")) if (folder / "began").exists() else 0


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def healthy(folder: Path) -> bool:
    command = [sys.executable, DOCKER / "healthcheck.py", "prm", "1", folder / "run.toml"]
    return subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_container_ends_as_its_service_does(start: Start, code: int) -> None:
    assert start(f"sys.exit({code})").wait(30) == code


def test_a_service_that_is_killed_shows(start: Start) -> None:
    assert start("import os\nos.kill(os.getpid(), 9)").wait(30) == 137


def test_a_container_hands_on_the_signal_that_stops_it(start: Start, tmp_path: Path) -> None:
    process = start(LISTENS)
    wait_until((tmp_path / "listens").exists)
    process.terminate()
    assert process.wait(30) == 0


def test_a_service_that_does_not_listen_yet_is_stopped_cleanly_too(start: Start) -> None:
    process = start("time.sleep(600)")
    process.terminate()
    assert process.wait(30) == 0


def test_a_service_that_fails_while_it_is_stopped_shows(start: Start, tmp_path: Path) -> None:
    process = start(LISTENS.replace("sys.exit(0)", "sys.exit(1)"))
    wait_until((tmp_path / "listens").exists)
    process.terminate()
    assert process.wait(30) == 1


def test_edited_settings_start_the_service_anew(start: Start, tmp_path: Path) -> None:
    process = start(LISTENS)
    wait_until((tmp_path / "listens").exists)
    (tmp_path / "run.toml").write_text("steps = 2\n", encoding="utf-8")
    wait_until(lambda: begun(tmp_path) == 2)
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 0


def test_a_container_whose_run_has_ended_stays_until_it_is_stopped(start: Start, tmp_path: Path) -> None:
    process = start("sys.exit(3)")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    assert not healthy(tmp_path)
    process.terminate()
    assert process.wait(30) == 3


def test_a_run_that_has_ended_goes_on_with_edited_settings(start: Start, tmp_path: Path) -> None:
    start("sys.exit(3)")
    time.sleep(1)
    (tmp_path / "run.toml").write_text("learning_rate = 1e-6\n", encoding="utf-8")
    wait_until(lambda: begun(tmp_path) == 2)


def test_a_container_whose_service_has_nothing_to_do_stays_healthy_and_ends_well(start: Start, tmp_path: Path) -> None:
    process = start("sys.exit(4)")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    assert healthy(tmp_path)
    process.terminate()
    assert process.wait(30) == 0
