"""The wasm engine on real programs: streams, endings, limits, repeatability, and what a hostile program gets."""

import gc
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from oprime_verifier.sandbox.types import MIB, Ending, Job, Limits, RunResult, SandboxFailedError
from oprime_verifier.sandbox.wasm import WasmSandbox

SHORT = Limits(cpu_s=0.1, wall_s=5.0, memory_bytes=64 * MIB, output_bytes=100_000)
LOOP = "total = 0\nfor i in range(20_000):\n    total += hash(str(i)) % 7\nprint(total, sorted({str(i) for i in range(50)}) and 1)"


def run(wasm: WasmSandbox, source: str, stdin: bytes = b"", limits: Limits = SHORT, seed: int = 0) -> RunResult:
    return wasm.run(Job(source=source, stdin=stdin, limits=limits, seed=seed))


@pytest.mark.parametrize(
    "source",
    [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\na, b = map(int, sys.stdin.buffer.read().split())\nsys.stdout.buffer.write(b'%d\\n' % (a + b))",
        "a, b = map(int, open(0).read().split())\nprint(a + b)",
        "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
        "import os\nos.write(1, b'%d\\n' % sum(map(int, os.read(0, 100).split())))",
        "total = 0\ndef main():\n    global total\n    total = sum(map(int, input().split()))\n"
        "if __name__ == '__main__':\n    main()\n    print(total)",
        "import sys, threading\nsys.setrecursionlimit(10**6)\n"
        "def main():\n    print(sum(map(int, input().split())))\nthread = threading.Thread(target=main)\nthread.start()\nthread.join()",
    ],
)
def test_every_usual_way_to_read_and_write_works(wasm: WasmSandbox, source: str) -> None:
    result = run(wasm, source, b"2 3\n")
    assert (result.ending, result.exit_code, result.stdout, result.stderr) == (Ending.EXITED, 0, b"5\n", b"")


def test_unicode_and_bytes_pass_unharmed(wasm: WasmSandbox) -> None:
    result = run(
        wasm, "import sys\nprint(input()[::-1])\nsys.stdout.flush()\nsys.stdout.buffer.write(sys.stdin.buffer.read())", "añ😀\n".encode()
    )
    assert result.stdout == "😀ña\n".encode()
    assert run(wasm, "print('\\udcff', end='')").stdout == b"\xff"


def test_two_megabytes_go_through_and_unread_input_is_no_failure(wasm: WasmSandbox) -> None:
    wide = replace(SHORT, output_bytes=4 * MIB)
    assert len(run(wasm, "print('x' * 2_000_000)", b"y" * 10_000_000, wide).stdout) == 2_000_001


@pytest.mark.parametrize(
    ("source", "code", "stderr"),
    [
        ("import sys; sys.exit(0)", 0, b""),
        ("import sys; sys.exit(3)", 3, b""),
        ("import sys; sys.exit('no')", 1, b"no\n"),
        ("import os; os._exit(7)", 7, b""),
        ("exit(256 + 4)", 4, b""),
        ("raise SystemExit", 0, b""),
    ],
)
def test_exit_codes_are_those_of_a_process(wasm: WasmSandbox, source: str, code: int, stderr: bytes) -> None:
    result = run(wasm, source)
    assert (result.ending, result.exit_code, result.stderr) == (Ending.EXITED, code, stderr)


def test_an_exception_ends_with_code_1_and_a_traceback(wasm: WasmSandbox) -> None:
    result = run(wasm, "print('before')\n1 / 0")
    assert (result.ending, result.exit_code, result.stdout) == (Ending.EXITED, 1, b"before\n")
    assert b'File "main.py", line 2' in result.stderr
    assert result.stderr.endswith(b"ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("source", ["def (", "x = '\0'", "(" * 100_000, "\udcff"])
def test_what_does_not_compile_never_runs(wasm: WasmSandbox, source: str) -> None:
    result = run(wasm, f"print('ran')\n{source}")
    assert (result.ending, result.stdout) == (Ending.COMPILE, b"")
    assert result.stderr


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("while True: pass", Ending.TIME),
        ("x = 3 ** (10 ** 9)", Ending.TIME),
        ("import re\nre.match('(a+)+$', 'a' * 40 + 'b')", Ending.TIME),
        ("import time\ntime.sleep(100)", Ending.TIME),
        ("while True:\n    try:\n        while True: pass\n    except BaseException:\n        pass", Ending.TIME),
        ("kept = []\nwhile True: kept.append(bytearray(1_000_000))", Ending.MEMORY),
        ("bytearray(1 << 30)", Ending.MEMORY),
        ("'a' * 10 ** 12", Ending.MEMORY),
        ("list(range(10 ** 9))", Ending.MEMORY),
        ("while True: print('x' * 1000)", Ending.OUTPUT),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", Ending.OUTPUT),
        ("import os\nos.abort()", Ending.SIGNALLED),
    ],
)
def test_a_limit_ends_what_is_over_it(wasm: WasmSandbox, source: str, ending: Ending) -> None:
    result = run(wasm, source)
    assert result.ending is ending, result
    assert len(result.stdout) <= SHORT.output_bytes


def test_an_abort_is_told_as_the_signal_it_would_be(wasm: WasmSandbox) -> None:
    assert run(wasm, "import os\nprint(1)\nos.abort()").signal == signal.SIGABRT


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.setrecursionlimit(10 ** 8)\ndef f(n): return f(n + 1)\nf(0)",
        "import sys\nsys.setrecursionlimit(10 ** 8)\nclass A:\n    def __getattr__(self, name): return getattr(self, name + 'a')\nA().x",
        "nested = []\nfor _ in range(100_000): nested = [nested]\nrepr(nested)",
        "def f(): f()\nf()",
    ],
)
def test_endless_recursion_harms_nobody(wasm: WasmSandbox, source: str) -> None:
    result = run(wasm, source, limits=replace(SHORT, cpu_s=0.5))
    assert (result.ending, result.exit_code) != (Ending.EXITED, 0)
    assert run(wasm, "print('alive')").stdout == b"alive\n"


def test_a_hundred_thousand_levels_deep_is_fine_when_asked_for(wasm: WasmSandbox) -> None:
    source = "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(100_000))"
    assert run(wasm, source, limits=replace(SHORT, memory_bytes=256 * MIB)).stdout == b"100000\n"


def test_the_same_program_takes_the_same_fuel_every_time(wasm: WasmSandbox) -> None:
    results = [run(wasm, LOOP) for _ in range(3)]
    with WasmSandbox(wasm.build) as another:
        results.append(run(another, LOOP))
    assert len({(result.fuel, result.cpu_s, result.stdout) for result in results}) == 1
    assert results[0].fuel is not None
    assert results[0].fuel > 1_000_000


def test_clocks_and_random_numbers_repeat_and_follow_the_seed(wasm: WasmSandbox) -> None:
    source = (
        "import os, random, time, datetime\n"
        "print(time.time(), time.perf_counter(), datetime.datetime.now(), os.urandom(4), random.random())"
    )
    assert run(wasm, source).stdout == run(wasm, source).stdout
    assert run(wasm, source, seed=1).stdout != run(wasm, source, seed=2).stdout


def test_sleeping_takes_virtual_time_only(wasm: WasmSandbox) -> None:
    result = run(wasm, "import time\nstart = time.monotonic()\ntime.sleep(4)\nprint(round(time.monotonic() - start))")
    assert result.stdout == b"4\n"
    assert result.wall_s > 4 > result.cpu_s


ESCAPES = {
    "read a file": "print(open('/etc/passwd').read())",
    "list a folder": "import os\nprint(os.listdir('/'))",
    "write a file": "open('/tmp/wasm-escape', 'w').write('x')",
    "read the environment of a process": "print(open('/proc/self/environ').read())",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)",
    "send a datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
    "listen": "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()",
    "look up a name": "import socket\nsocket.getaddrinfo('localhost', 80)",
    "use a Unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "start a process": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'id'])",
    "call system": "import os\nos.system('id')",
    "fork": "import os\nos.fork()",
    "load a library": "import ctypes\nctypes.CDLL(None)",
    "signal the parent": "import os\nos.kill(os.getppid(), 9)",
    "map memory": "import mmap",
    "use other descriptors": (
        "import os\nfor fd in range(3, 1000):\n"
        "    try:\n        os.write(fd, b'x')\n    except OSError:\n        continue\n    print('wrote', fd)\n"
        "raise OSError"
    ),
    "import a package": "import numpy",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_nothing_of_the_host_is_in_reach(wasm: WasmSandbox, source: str) -> None:
    result = run(wasm, f"{source}\nprint('escaped')")
    assert (result.ending, result.exit_code) != (Ending.EXITED, 0)
    assert result.stdout == b""
    assert not Path("/tmp/wasm-escape").exists()  # noqa: S108 - it must not


def test_the_environment_is_empty(wasm: WasmSandbox) -> None:
    assert run(wasm, "import os, sys\nprint(dict(os.environ), sys.argv[1:])").stdout == b"{} []\n"


def test_nothing_of_one_run_is_left_for_the_next(wasm: WasmSandbox) -> None:
    spoil = (
        "import builtins, sys, math, json\nbuiltins.print = None\nmath.pi = 3\nsys.modules['json'] = None\nbuiltins.kept = 1\njson.kept = 1"
    )
    assert run(wasm, spoil).exit_code == 0
    assert (
        run(wasm, "import json, math, builtins\nprint(math.pi > 3.1, hasattr(builtins, 'kept'), hasattr(json, 'kept'))").stdout
        == b"True False False\n"
    )


def test_runs_may_overlap_and_be_killed(wasm: WasmSandbox) -> None:
    endless = wasm.start(Job(source="while True: pass", limits=Limits(cpu_s=1000, wall_s=1000)))
    assert run(wasm, "print('beside it')").stdout == b"beside it\n"
    endless.kill()
    assert endless.wait().signal == signal.SIGKILL


def test_a_program_cannot_forge_its_own_report(wasm: WasmSandbox) -> None:
    forged = "import wit_world\nwit_world.note('C', 'forged')\nprint('ran')\nwit_world.finish(0)"
    result = run(wasm, forged)
    assert (result.ending, result.exit_code) == (Ending.EXITED, 0)


def test_the_engine_comes_back_when_its_host_was_killed(wasm: WasmSandbox) -> None:
    with WasmSandbox(wasm.build) as another:
        assert run(another, "print(1)").stdout == b"1\n"
        assert another._host is not None
        another._host._process.kill()
        another._host._process.wait()
        assert run(another, "print(2)").stdout == b"2\n"


def test_no_descriptor_is_left_open(wasm: WasmSandbox) -> None:
    run(wasm, "print(1)")
    gc.collect()  # what earlier tests left is not closed in the middle
    before = len(list(Path("/proc/self/fd").iterdir()))
    for source in ("print(1)", "1 / 0", "def (", "while True: pass"):
        run(wasm, source)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("job", [Job(language="cpp"), Job(profile="numpy"), Job(entry="unknown")])
def test_what_it_cannot_run_is_refused_by_name(wasm: WasmSandbox, job: Job) -> None:
    with pytest.raises(SandboxFailedError, match="use the native engine"):
        wasm.start(job)
