"""Several ranks in real processes: whatever ends one ends all, promptly, with the real reason, and none takes one message for another."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.forked import Forked, environments
from e2e.test_train_engine import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

WORKER = Path(__file__).parent / "ranks_worker.py"
PROMPTLY_S = 15.0
"""With room for a busy machine."""


@dataclass(frozen=True)
class Ended:
    codes: list[int | None]
    reasons: list[str]
    """What each rank's log gives as the reason, in its last entry that is an error."""
    calls: list[list[str]]
    seconds: float
    """From the last call that a rank began to the end of the last process."""


def write_config(out: Path) -> Path:
    config = out / "run.toml"
    config.write_text('[run]\nname = "ranks"\nsteps = 3\n', encoding="utf-8")
    return config


def start(case: str, out: Path, *, ranks: int) -> list[Forked]:
    write_config(out)
    return [start_rank(case, out, environment) for environment in environments(ranks, free_port())]


def start_rank(case: str, out: Path, environment: Mapping[str, str]) -> Forked:
    return Forked("e2e.ranks_worker", (case, out, out / "run.toml"), environment=environment, output=out)


def end(workers: list[Forked], out: Path, *, timeout_s: float = 60) -> Ended:
    try:
        outputs = [worker.output(timeout_s=timeout_s) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    ended, logs = time.time(), [out / f"rank-{rank}" for rank in range(len(workers))]
    return Ended(
        codes=[worker.returncode for worker in workers],
        reasons=[reason_of(output) for output in outputs],
        calls=[log.read_text(encoding="utf-8").splitlines() for log in logs],
        seconds=ended - max(log.stat().st_mtime for log in logs),
    )


def reason_of(output: str) -> str:
    entries: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    errors = [entry for entry in entries if entry["level"] == "error"]
    return str(errors[-1].get("error") or errors[-1].get("exception")) if errors else ""


def run(case: str, out: Path, *, ranks: int = 2) -> Ended:
    return end(start(case, out, ranks=ranks), out)


def files(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_dir()}


def test_all_ranks_do_the_same_calls_and_end_together(tmp_path: Path) -> None:
    ended = run("well", tmp_path)
    assert ended.codes == [0, 0]
    assert ended.calls[0] == ended.calls[1]
    assert files(tmp_path) == {"step-1", "step-2", "step-3"}


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_fails_before_a_collective_call_ends_all_with_its_reason(tmp_path: Path, rank: int) -> None:
    ended = run(f"rank {rank} raises", tmp_path, ranks=3)
    assert ended.codes == [1, 1, 1]
    assert all(f"batch 2 is odd, says rank {rank}" in reason for reason in ended.reasons), ended.reasons
    assert all(f"rank {rank}: " in reason for place, reason in enumerate(ended.reasons) if place != rank)
    # Nobody took the message that ends it for a directory.
    assert all(calls[-1] == "process 2" for calls in ended.calls)
    assert files(tmp_path) == {"step-1"}
    assert ended.seconds < PROMPTLY_S


def test_a_reason_that_makes_restarts_useless_is_the_exit_code_of_all(tmp_path: Path) -> None:
    ended = run("all raise", tmp_path)
    assert ended.codes == [3, 3]
    assert all("the gradient norm is nan" in reason for reason in ended.reasons)


def test_a_failure_of_rank_0_between_calls_is_the_reason_of_all(tmp_path: Path) -> None:
    ended = run("between calls", tmp_path)
    assert ended.codes == [1, 1]
    assert all("holds batch 3, but not batch 2" in reason for reason in ended.reasons)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path, rank: int) -> None:
    ended = run(f"rank {rank} is killed", tmp_path)
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    assert ("rank 0 of this service is gone" if rank == 0 else "onnection") in ended.reasons[1 - rank]


def stopped_in_call(case: str, out: Path) -> Ended:
    """What becomes of two ranks that get SIGTERM while both are in their second call."""
    workers = start(case, out, ranks=2)
    deadline = time.monotonic() + 60
    while not all((out / f"in-call-{rank}").exists() for rank in range(2)):
        assert time.monotonic() < deadline, "no rank came to its second call"
        time.sleep(0.02)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    return end(workers, out)


def test_sigterm_in_mid_call_lets_the_call_end_and_then_all_end_cleanly(tmp_path: Path) -> None:
    ended = stopped_in_call("sigterm", tmp_path)
    assert ended.codes == [0, 0], ended.reasons
    assert ended.calls[0] == ended.calls[1]
    assert ended.calls[0][-1] == "process 2"
    assert ended.seconds < PROMPTLY_S


def test_sigterm_in_a_call_that_then_fails_is_still_a_failure_with_its_reason(tmp_path: Path) -> None:
    ended = stopped_in_call("sigterm, rank 0 raises late", tmp_path)
    assert ended.codes == [1, 1]
    assert all("late, says rank 0" in reason for reason in ended.reasons), ended.reasons


# The launcher: on one host, and on two that are one machine


def launch(case: str, out: Path, *, ranks: int = 2, hosts: int = 1, host: int = 0, port: int = 0) -> "subprocess.Popen[str]":
    code = (
        "import os, sys; from oprime.runtime.logs import configure_logs; from oprime.runtime.rank_launcher import Hosts, launch; "
        "configure_logs('ranks'); hosts = Hosts.of_environment(os.environ); "
        "sys.exit(launch(sys.argv[2:], ranks=int(sys.argv[1]), setting='learner.ranks', hosts=hosts))"
    )
    where = {"OPRIME_HOSTS": str(hosts), "OPRIME_HOST_INDEX": str(host), "OPRIME_HOST_ADDRESS": f"127.0.0.1:{port}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ranks), sys.executable, str(WORKER), case, str(out), str(write_config(out))],
        env={**os.environ, "OMP_NUM_THREADS": "1", **where},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def in_calls(out: Path, ranks: int) -> bool:
    return all((out / f"in-call-{rank}").exists() for rank in range(ranks))


def test_the_launcher_ends_with_the_code_of_the_rank_that_failed_first(tmp_path: Path) -> None:
    launcher = launch("all raise", tmp_path)
    output = launcher.communicate(timeout=100)[0]
    assert launcher.returncode == 3, output[-2000:]
    assert "the gradient norm is nan" in reason_of(output)


@pytest.mark.parametrize(("first", "ranks"), [(0, 4), (1, 2)])
def test_hosts_start_in_any_order_and_share_the_ranks(tmp_path: Path, first: int, ranks: int) -> None:
    port = free_port()
    launchers = [launch("well", tmp_path, ranks=ranks, hosts=2, host=first, port=port)]
    time.sleep(1)
    launchers.append(launch("well", tmp_path, ranks=ranks, hosts=2, host=1 - first, port=port))
    outputs = [launcher.communicate(timeout=100)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    calls = [(tmp_path / f"rank-{rank}").read_text(encoding="utf-8") for rank in range(ranks)]
    assert calls == [calls[0]] * ranks


def test_a_failure_on_one_host_is_the_code_and_the_reason_on_all(tmp_path: Path) -> None:
    port = free_port()
    launchers = [launch("all raise", tmp_path, hosts=2, host=host, port=port) for host in range(2)]
    outputs = [launcher.communicate(timeout=100)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [3, 3], outputs
    assert all("the gradient norm is nan" in reason_of(output) for output in outputs)


def test_a_killed_rank_ends_every_host_with_a_code_that_asks_for_a_restart(tmp_path: Path) -> None:
    port = free_port()
    launchers = [launch("rank 1 is killed", tmp_path, hosts=2, host=host, port=port) for host in range(2)]
    outputs = [launcher.communicate(timeout=100)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [1, 1], outputs


def test_a_stop_of_the_launchers_is_a_clean_one_of_all_ranks(tmp_path: Path) -> None:
    port = free_port()
    launchers = [launch("sigterm", tmp_path, hosts=2, host=host, port=port) for host in range(2)]
    wait_until(lambda: in_calls(tmp_path, 2), "both ranks are in their second call")
    for launcher in launchers:
        launcher.send_signal(signal.SIGTERM)
    outputs = [launcher.communicate(timeout=60)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert (tmp_path / "rank-1").read_text(encoding="utf-8").splitlines()[-1] == "process 2"


def test_a_host_that_waits_for_host_0_can_be_stopped(tmp_path: Path) -> None:
    launcher = launch("well", tmp_path, hosts=2, host=1, port=free_port())
    time.sleep(2)
    launcher.send_signal(signal.SIGTERM)
    assert "waiting_for_host_0" in launcher.communicate(timeout=30)[0]
    assert launcher.returncode == 0


def test_a_rank_that_waits_for_ranks_of_other_hosts_can_be_stopped(tmp_path: Path) -> None:
    launcher = launch("well", tmp_path, hosts=2, host=0, port=free_port())
    wait_until((tmp_path / "waiting-0").exists, "rank 0 waits")
    launcher.send_signal(signal.SIGTERM)
    output = launcher.communicate(timeout=30)[0]
    assert (launcher.returncode, "stopped_cleanly" in output) == (0, True), output


def test_ranks_do_not_outlive_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = launch("sigterm, long", tmp_path)
    wait_until(lambda: in_calls(tmp_path, 2), "both ranks are in their second call")
    ranks = [int((tmp_path / f"in-call-{rank}").read_text()) for rank in range(2)]
    assert all(is_alive(rank) for rank in ranks)
    launcher.kill()
    wait_until(lambda: not any(is_alive(rank) for rank in ranks), "the ranks are gone")
    launcher.communicate(timeout=10)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_rank_that_is_started_again_while_the_others_run_ends_them_so_that_all_begin_together(tmp_path: Path) -> None:
    write_config(tmp_path)
    places = environments(2, free_port())
    workers = [start_rank("sigterm, long", tmp_path, place) for place in places]
    wait_until(lambda: in_calls(tmp_path, 2), "both ranks are in their second call")
    workers[1].kill()
    workers[1].output(timeout_s=10)
    again = start_rank("sigterm, long", tmp_path, places[1])
    outputs = [worker.output(timeout_s=60) for worker in (workers[0], again)]
    assert [workers[0].returncode, again.returncode] == [1, 1], outputs
    assert "rank 1 was started again while other ranks of its service still ran" in outputs[1]


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        launcher = launch("well", tmp_path, hosts=2, host=0, port=taken.getsockname()[1])
        output = launcher.communicate(timeout=30)[0]
    assert launcher.returncode == 1
    assert "host 0 cannot listen on this port: Address already in use" in output
