"""C++ and JavaScript behind the second profile, where their tools are installed."""

import shutil
from pathlib import Path

import pytest

from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.types import MIB, Ending, Job, Limits, RunResult, SandboxFailedError

LIMITS = Limits(cpu_s=1.0, wall_s=8.0, memory_bytes=256 * MIB, output_bytes=MIB)
HEAD = """#include <cstdio>
#include <cstdlib>
#include <vector>
#include <unistd.h>
#include <sys/socket.h>
int main() {
"""
cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
javascript = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run(sandbox: NativeSandbox, language: str, source: str, stdin: bytes = b"") -> RunResult:
    return sandbox.run(Job(language=language, source=source, stdin=stdin, limits=LIMITS))


@cpp
@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("for (volatile int i = 0;; i++);", Ending.TIME),
        ("std::vector<std::vector<char>> v; for (;;) v.emplace_back(1 << 20, 1);", Ending.MEMORY),
        ("for (;;) puts(__FILE__);", Ending.OUTPUT),
        ("abort();", Ending.SIGNALLED),
        ("nothing();", Ending.COMPILE),
    ],
)
def test_cpp_endings(sandbox: NativeSandbox, body: str, ending: Ending) -> None:
    assert run(sandbox, "cpp", HEAD + body + "}").ending is ending


@cpp
def test_a_cpp_program_computes_and_gets_nowhere(sandbox: NativeSandbox) -> None:
    body = """int a, b; if (scanf("%d %d", &a, &b) != 2) return 1;
    printf("%d %d %d %d %d %d", a + b, (int)fork(), socket(2, 1, 0), fopen("/etc/passwd", "r") != 0, fopen("/tmp/oprime", "w") != 0,
           execl("/bin/sh", "sh", "-c", "true", (char *)0));}"""
    assert run(sandbox, "cpp", HEAD + body, b"2 3").stdout == b"5 -1 -1 0 0 -1"


@cpp
def test_the_compiler_reads_no_file_of_the_host(sandbox: NativeSandbox) -> None:
    ended = run(sandbox, "cpp", '#include "/etc/passwd"\nint main() {}')
    assert ended.ending is Ending.COMPILE
    assert b"root" not in ended.stderr


@javascript
@pytest.mark.parametrize("source", ["require('fs').readFileSync(0)", "require('fs').readFileSync('/dev/stdin')"])
def test_a_javascript_program_reads_its_input(sandbox: NativeSandbox, source: str) -> None:
    assert run(sandbox, "javascript", f"console.log(String({source}).trim().length)", b"four\n").stdout == b"4\n"


@javascript
@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("for (;;);", Ending.TIME),
        ("a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1))", Ending.MEMORY),
        ("for (;;) console.log('x'.repeat(1000))", Ending.OUTPUT),
        ("throw 1", Ending.EXITED),
        ("for (", Ending.COMPILE),
        ("require('child_process').execSync('true')", Ending.EXITED),
        ("require('fs').readFileSync('/etc/passwd')", Ending.EXITED),
    ],
)
def test_javascript_endings(sandbox: NativeSandbox, source: str, ending: Ending) -> None:
    ended = run(sandbox, "javascript", source)
    assert (ended.ending, ended.exit_code == 0) == (ending, False)


def test_an_unknown_language_is_no_fault_of_the_program(sandbox: NativeSandbox) -> None:
    with pytest.raises(SandboxFailedError, match="python, cpp and javascript"):
        run(sandbox, "cobol", "")


@cpp
def test_builds_are_thrown_away() -> None:
    sandbox = NativeSandbox()
    run(sandbox, "cpp", "int main() {}")
    folders = {build.parent for build in sandbox._builder._builds.values() if isinstance(build, Path)}
    assert folders
    sandbox.close()
    assert not any(folder.exists() for folder in folders)
