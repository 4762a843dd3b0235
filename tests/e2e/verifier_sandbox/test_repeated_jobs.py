"""A job that is repeated: each run is as a job of its own would be, and sees nothing of the others."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oprime_verifier.sandbox import native_repeated
from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.native_repeated import NativeRepeated
from oprime_verifier.sandbox.types import MIB, Ending, Job, Limits, Repeated, RunResult, SandboxFailedError

LIMITS = Limits(cpu_s=1.0, wall_s=60.0, memory_bytes=128 * MIB, output_bytes=MIB)


@contextlib.contextmanager
def repeated(sandbox: NativeSandbox, source: str, **rest: object) -> Iterator[NativeRepeated]:
    with contextlib.closing(sandbox.repeat(Job(source=source, limits=LIMITS, **rest), 2)) as job:  # type: ignore[arg-type]
        assert isinstance(job, NativeRepeated)
        yield job


def run(job: Repeated, stdin: bytes = b"", wall_s: float = 60.0, **arguments: object) -> RunResult:
    return job.start(stdin, wall_s=wall_s, arguments=arguments).wait()


def test_each_run_reads_its_own_input(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "import sys\nprint(sys.stdin.read().upper(), end='')") as job:
        assert [run(job, text).stdout for text in (b"one", b"two", b"", b"three")] == [b"ONE", b"TWO", b"", b"THREE"]


LEAVES_A_TRACE = """
import builtins, math, os, random, sys, threading
print(getattr(builtins, 'trace', 0), math.pi < 4, random.random(), hash('x'), threading.active_count())
print(sorted(os.listdir('/proc/self/fd')) if os.access('/proc/self/fd', os.R_OK) else '', sys.argv, __name__)
builtins.trace, math.pi = 1, 5
threading.Thread(target=print, daemon=True).start()
"""


def test_each_run_starts_as_a_job_of_its_own_does(sandbox: NativeSandbox) -> None:
    alone = sandbox.run(Job(source=LEAVES_A_TRACE, limits=LIMITS, seed=7)).stdout
    with repeated(sandbox, LEAVES_A_TRACE, seed=7) as job:
        assert [run(job).stdout for _ in range(3)] == [alone] * 3
    assert alone.startswith(b"0 True ")


def test_a_program_recurses_as_deeply_as_in_a_job_of_its_own(sandbox: NativeSandbox) -> None:
    source = "def f(n):\n    try:\n        return f(n + 1)\n    except RecursionError:\n        return n\nprint(f(1))"
    with repeated(sandbox, source) as job:
        assert run(job).stdout == sandbox.run(Job(source=source, limits=LIMITS)).stdout != b""


def test_a_traceback_shows_the_program_alone(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "1 / 0") as job:
        stderr = run(job).stderr
    assert stderr == sandbox.run(Job(source="1 / 0", limits=LIMITS)).stderr
    assert stderr.startswith(b'Traceback (most recent call last):\n  File "main.py", line 1, in <module>\n')


def test_the_wall_clock_ends_one_run_and_not_the_next(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "import time\ntime.sleep(float(input()))\nprint(1)") as job:
        late = run(job, b"60", wall_s=0.3)
        assert (late.ending, late.stdout) == (Ending.TIME, b"")
        assert run(job, b"0").stdout == b"1\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "os.kill(os.getppid(), 9)", "os.kill(0, 9)", "os.killpg(os.getpgid(0), 9)", "os.fork()", "os.setsid()",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "ctypes.CDLL(None, use_errno=True).prctl(1, 0) and None or fail()",
    ],
)  # fmt: skip
def test_a_run_cannot_touch_the_process_that_it_comes_from(sandbox: NativeSandbox, attempt: str) -> None:
    source = f"import ctypes, os, resource\ndef fail():\n    raise PermissionError(1, 'refused')\n{attempt}\nprint('out')"
    with repeated(sandbox, source) as job:
        for _ in range(2):
            ended = run(job)
            assert (ended.ending, ended.exit_code, ended.stdout) == (Ending.EXITED, 1, b"")
            assert b"PermissionError" in ended.stderr


def test_only_the_streams_and_the_channel_are_open_in_a_run(sandbox: NativeSandbox) -> None:
    source = "import os\nfor fd in range(64):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
    ours, theirs = socket.socketpair()
    with ours, theirs, repeated(sandbox, source) as job:
        assert run(job).stdout.split() == [b"0", b"1", b"2"]
        assert job.start(channel=theirs, wall_s=60.0).wait().stdout.split() == [b"0", b"1", b"2", b"3"]


def test_arguments_of_a_run_go_before_those_of_the_job(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "import sys\nprint(sys.argv[1:])", arguments={"argv": ["job"]}) as job:
        assert [run(job).stdout, run(job, argv=["run"]).stdout, run(job).stdout] == [b"['job']\n", b"['run']\n", b"['job']\n"]


def test_a_killed_run_ends_by_a_signal_and_the_next_one_works(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "import time\ntime.sleep(float(input()))\nprint(1)") as job:
        process = job.start(b"60", wall_s=60.0)
        process.kill()
        assert process.wait().ending is Ending.SIGNALLED
        assert run(job, b"0").stdout == b"1\n"


def test_a_process_that_was_killed_is_the_sandboxes_failure_and_the_next_run_has_another(sandbox: NativeSandbox) -> None:
    with repeated(sandbox, "import time\ntime.sleep(float(input()))\nprint(1)") as job:
        assert run(job, b"0").stdout == b"1\n"
        process = job.start(b"60", wall_s=60.0)
        assert job._process is not None
        job._process.kill()
        with pytest.raises(SandboxFailedError):
            process.wait()
        assert run(job, b"0").stdout == b"1\n"


def test_the_process_is_replaced_after_its_share_of_runs(sandbox: NativeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_repeated, "RUNS_OF_ONE", 2)
    with repeated(sandbox, "import os\nprint(os.getppid())") as job:
        assert len({run(job).stdout for _ in range(5)}) == 3


def test_a_stopped_process_is_given_up_after_deadline_and_slack() -> None:
    with contextlib.closing(NativeSandbox(slack_s=0.5)) as sandbox:
        sandbox.run(Job(source="pass"))
        before = _descendants()
        with repeated(sandbox, "import os\nprint(os.getppid())") as job:
            run(job)
            (forking,) = _descendants() - before
            os.kill(forking, signal.SIGSTOP)
            with pytest.raises(SandboxFailedError, match="in time"):
                run(job, wall_s=0.5)
            assert run(job).stdout.strip().isdigit()


def test_nothing_stays_behind(sandbox: NativeSandbox) -> None:
    sandbox.run(Job(source="pass"))
    before, descriptors = _descendants(), _descriptors()
    with repeated(sandbox, "import time\ntime.sleep(float(input()))") as job:
        run(job, b"0")
        process = job.start(b"60", wall_s=60.0)
        _until(lambda: len(_descendants() - before) == 2)
    del job, process
    _until(lambda: _descendants() <= before and _descriptors() <= descriptors)


def test_nothing_is_left_when_the_supervisor_dies() -> None:
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        with repeated(NativeSandbox(), "import time\ntime.sleep(float(input()))") as job:
            run(job, b"0")
            before = _descendants()
            process = job.start(b"60", wall_s=60.0)
            _until(lambda: len(_descendants() - before) == 1)
            os.write(writer, " ".join(map(str, _descendants())).encode())
            os.kill(os.getpid(), signal.SIGKILL)
            process.wait()
    os.waitpid(supervisor, 0)
    left = [int(pid) for pid in os.read(reader, 4096).split()]
    os.close(reader)
    os.close(writer)
    # The zygote, perhaps behind a namespace's first process; the process that forks; its child.
    assert len(left) >= 3
    _until(lambda: not any(_lives(pid) for pid in left))


def test_one_run_or_another_language_needs_no_process_of_its_own(sandbox: NativeSandbox) -> None:
    for job, runs in ((Job(source="print(1)"), 1), (Job(source="console.log(1)", language="javascript"), 9)):
        assert not isinstance(sandbox.repeat(job, runs), NativeRepeated)


def _until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10.0
    while not holds() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert holds()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _descendants() -> set[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found, fresh = set[int](), {os.getpid()}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found
