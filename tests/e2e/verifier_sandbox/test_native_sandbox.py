"""The native engine with real processes."""

import contextlib
import gc
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.types import MIB, Ending, Job, Limits, RunResult, SandboxFailedError

SMALL = Limits(cpu_s=1.0, wall_s=3.0, memory_bytes=128 * MIB, output_bytes=MIB)
PATIENT = replace(SMALL, wall_s=60.0)
"""A second of CPU may take many on a machine that has other work to do."""


def run(sandbox: NativeSandbox, source: str, stdin: bytes = b"", **rest: object) -> RunResult:
    return sandbox.run(Job(source=source, stdin=stdin, limits=SMALL, **rest))  # type: ignore[arg-type]


def test_a_program_reads_its_input_and_writes_its_output(sandbox: NativeSandbox) -> None:
    ended = run(sandbox, "print(sum(map(int, input().split())))", b"1 2 3\n")
    assert (ended.ending, ended.exit_code, ended.stdout, ended.stderr) == (Ending.EXITED, 0, b"6\n", b"")
    assert ended.violations == ()


@pytest.mark.parametrize(
    ("source", "ending", "detail"),
    [
        ("raise SystemExit(3)", Ending.EXITED, 3),
        ("1 / 0", Ending.EXITED, 1),
        ("import os\nos.abort()", Ending.SIGNALLED, signal.SIGABRT),
        ("import ctypes\nctypes.string_at(0)", Ending.SIGNALLED, signal.SIGSEGV),
        ("while True: pass", Ending.TIME, signal.SIGXCPU),
        ("x = 'a' * 10 ** 12", Ending.MEMORY, 1),
        ("print('x' * 2_000_000)", Ending.OUTPUT, 1),
        ("import sys\nsys.stderr.write('x' * 2_000_000)", Ending.OUTPUT, 120),
        ("def f(:", Ending.COMPILE, 1),
        ("\0", Ending.COMPILE, 1),
        ("#" * (2 * MIB), Ending.COMPILE, 1),
        ("(" * 100_000, Ending.COMPILE, 1),
    ],
)
@pytest.mark.parametrize("runs", [1, 2], ids=["single", "repeated"])
def test_each_ending_is_told_apart(sandbox: NativeSandbox, source: str, ending: Ending, detail: int, runs: int) -> None:
    with contextlib.closing(sandbox.repeat(Job(source=source, limits=PATIENT), runs)) as job:
        for _ in range(runs):
            ended = job.start(wall_s=PATIENT.wall_s).wait()
            assert (ended.ending, ended.exit_code if ended.signal is None else ended.signal) == (ending, detail)


def test_a_program_cannot_claim_that_it_never_ran(sandbox: NativeSandbox) -> None:
    forged = "import os\nfor fd in range(3, 64):\n    try: os.pwrite(fd, b'Cforged', 0)\n    except OSError: pass\nos._exit(1)"
    assert run(sandbox, forged).ending is Ending.EXITED


def test_a_traceback_shows_the_program_alone(sandbox: NativeSandbox) -> None:
    ended = run(sandbox, "def f():\n    return 1 / 0\nf()")
    assert ended.stderr.decode().splitlines() == [
        "Traceback (most recent call last):",
        '  File "main.py", line 3, in <module>',
        '  File "main.py", line 2, in f',
        "ZeroDivisionError: division by zero",
    ]


def test_chance_and_hashes_are_the_same_in_every_zygote() -> None:
    source = "import random\nprint(random.random(), hash('x'), list({'a', 'b', 'c'}))"
    outputs: list[bytes] = []
    for _ in range(2):
        sandbox = NativeSandbox()
        outputs.append(run(sandbox, source, seed=7).stdout)
        sandbox.close()
    assert outputs[0] == outputs[1]
    assert outputs[0] != b""


def test_another_seed_throws_other_dice(sandbox: NativeSandbox) -> None:
    source = "import random\nprint(random.random())"
    assert run(sandbox, source, seed=1).stdout != run(sandbox, source, seed=2).stdout


def test_numpy_is_there_in_its_profile_only(sandbox: NativeSandbox) -> None:
    pytest.importorskip("numpy")
    source = "import numpy\nprint(numpy.linalg.det(numpy.eye(3)), numpy.random.randint(10 ** 6))"
    first, second = run(sandbox, source, profile="numpy"), run(sandbox, source, profile="numpy")
    assert first.stdout == second.stdout != b""
    assert run(sandbox, "import numpy").exit_code == 1


def test_what_is_refused_is_reported_as_a_violation(sandbox: NativeSandbox) -> None:
    (violation,) = run(sandbox, "import os\nos.fork()").violations
    assert violation.startswith("PermissionError")


def test_two_jobs_of_one_sandbox_talk_over_channels_at_once(sandbox: NativeSandbox) -> None:
    talk = "import socket\nc = socket.socket(fileno=3)\nc.sendall(c.recv(99).upper())"
    pairs = [socket.socketpair() for _ in range(2)]
    processes = [sandbox.start(Job(source=talk, limits=SMALL), theirs) for _, theirs in pairs]
    for (ours, theirs), word in zip(pairs, (b"one", b"two"), strict=True):
        theirs.close()
        ours.sendall(word)
    # Collected in the other order than they were begun.
    assert [pair[0].recv(99) for pair in reversed(pairs)] == [b"TWO", b"ONE"]
    assert [process.wait().exit_code for process in reversed(processes)] == [0, 0]
    for ours, _ in pairs:
        ours.close()


def test_a_killed_job_ends_by_a_signal(sandbox: NativeSandbox) -> None:
    process = sandbox.start(Job(source="import time\ntime.sleep(60)", limits=Limits(wall_s=60.0)))
    process.kill()
    assert process.wait().ending is Ending.SIGNALLED


def test_a_zygote_that_is_killed_is_the_sandboxes_failure_and_the_next_job_has_another() -> None:
    sandbox = NativeSandbox()
    run(sandbox, "pass")
    process = sandbox.start(Job(source="import time\ntime.sleep(60)", limits=SMALL))
    os.killpg(next(iter(sandbox._zygotes.values())).pid, signal.SIGKILL)
    with pytest.raises(SandboxFailedError):
        process.wait()
    assert run(sandbox, "print(1)").stdout == b"1\n"
    sandbox.close()


def test_jobs_of_a_zygote_that_was_given_up_fail_at_once() -> None:
    sandbox = NativeSandbox()
    processes = [sandbox.start(Job(source="import time\ntime.sleep(60)")) for _ in range(2)]
    os.killpg(next(iter(sandbox._zygotes.values())).pid, signal.SIGKILL)
    for process in processes:
        with pytest.raises(SandboxFailedError):
            process.wait()
        process.kill()
    sandbox.close()


def test_a_job_that_nobody_waits_for_leaves_no_descriptor(sandbox: NativeSandbox) -> None:
    run(sandbox, "pass")
    gc.collect()  # what earlier tests left is not closed in the middle
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        sandbox.start(Job(source="pass")).kill()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert run(sandbox, "print(1)").stdout == b"1\n"


def test_a_stopped_zygote_is_given_up_after_deadline_and_slack() -> None:
    sandbox = NativeSandbox(slack_s=0.5)
    run(sandbox, "pass")
    os.killpg(next(iter(sandbox._zygotes.values())).pid, signal.SIGSTOP)
    with pytest.raises(SandboxFailedError, match="in time"):
        sandbox.run(Job(source="pass", limits=Limits(wall_s=0.5)))
    assert run(sandbox, "print(1)").stdout == b"1\n"
    sandbox.close()


def test_a_zygote_is_replaced_after_its_share_of_jobs() -> None:
    sandbox = NativeSandbox(refresh_jobs=2)
    pids: list[int] = []
    for _ in range(4):
        run(sandbox, "pass")
        pids.append(next(iter(sandbox._zygotes.values())).pid)
    assert len(set(pids)) == 2
    sandbox.close()


def test_nothing_is_left_when_the_supervisor_dies() -> None:
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        sandbox = NativeSandbox()
        sandbox.run(Job(source="pass"))
        sandbox.start(Job(source="import time\ntime.sleep(60)", limits=Limits(wall_s=60.0)))
        os.write(writer, str(next(iter(sandbox._zygotes.values())).pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(supervisor, 0)
    group = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    give_up = time.monotonic() + 10.0
    while (left := _sessions(group)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert left == []


def _sessions(group: int) -> list[str]:
    """Processes of a zygote's process group that still live."""
    found: list[str] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found
