"""C++ and JavaScript: what to execute for a job in one of them, and building it in the sandbox first."""

import hashlib
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from oprime_verifier.sandbox.inside.stage import MAX_SOURCE_BYTES
from oprime_verifier.sandbox.types import MIB, Ending, Job, Limits, RunResult, SandboxFailedError

KEPT_BUILDS = 16
"""Builds that are kept: the tests of a task run one program many times."""
BUILD_LIMITS = Limits(cpu_s=20.0, wall_s=40.0, memory_bytes=1024 * MIB, output_bytes=64 * MIB)
FLAGS = ("-O2", "-std=c++17", "-pipe")
Run = Callable[[Job], RunResult]


class Builder:
    """Turns a job into one that executes a file. Files live until `close`."""

    def __init__(self, run: Run) -> None:
        """`run` runs the compiler in the sandbox."""
        self._run = run
        self._builds: OrderedDict[str, Path | RunResult] = OrderedDict()
        self._compiler_works = False

    def prepare(self, job: Job) -> Job | RunResult:
        """The job to run in its place, or how building failed. Raises SandboxFailedError where the language is not installed."""
        tool = _tool(job.language)
        if len(job.source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES or "\0" in job.source:
            return _refused(f"the source has a NUL, or more than {MAX_SOURCE_BYTES} bytes")
        built = self._built(job, tool)
        if isinstance(built, RunResult):
            return built
        megabytes = job.limits.memory_bytes // MIB
        argv = [str(built)] if job.language == "cpp" else [tool, f"--max-old-space-size={megabytes}", str(built)]
        # V8 reserves far more address space than it uses.
        space = "fresh" if job.language == "cpp" else "unbounded"
        arguments = {"argv": [*argv, *job.arguments.get("argv", ())], "environment": {}, "folder": str(built.parent), "space": space}
        return replace(job, entry="execute", language="python", source="", profile="execute", arguments=arguments)

    def close(self) -> None:
        while self._builds:
            self._forget(self._builds.popitem()[1])

    def _built(self, job: Job, tool: str) -> Path | RunResult:
        key = hashlib.sha256(f"{job.language}\0{job.source}".encode(errors="surrogatepass")).hexdigest()
        if key not in self._builds:
            self._builds[key] = self._build(job.source, tool) if job.language == "cpp" else self._check(job.source, tool)
            while len(self._builds) > KEPT_BUILDS:
                self._forget(self._builds.popitem(last=False)[1])
        self._builds.move_to_end(key)
        return self._builds[key]

    def _build(self, source: str, compiler: str) -> Path | RunResult:
        if not self._compiler_works:
            trial = self._compile("int main() {}", compiler)
            if isinstance(trial, RunResult):
                raise SandboxFailedError(f"{compiler} does not work in the sandbox: {trial.stderr[-300:].decode(errors='replace')}")
            self._forget(trial)
            self._compiler_works = True
        return self._compile(source, compiler)

    def _check(self, source: str, node: str) -> Path | RunResult:
        file = _written(source, "main.js")
        arguments = {"argv": [node, "--check", str(file)], "environment": {}, "folder": str(file.parent), "space": "unbounded"}
        ended = self._run(Job(entry="execute", profile="execute", arguments=arguments, limits=BUILD_LIMITS))
        if ended.ending is Ending.EXITED and ended.exit_code == 0:
            return file
        self._forget(file)
        return replace(ended, ending=Ending.COMPILE, stdout=b"")

    def _compile(self, source: str, compiler: str) -> Path | RunResult:
        file = _written(source, "main.cpp")
        target = file.with_name("program")
        if os.geteuid() == 0:
            # The compiler runs as another user.
            file.parent.chmod(0o777)
        arguments = {
            "argv": [compiler, *FLAGS, "-o", str(target), str(file)],
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(file.parent)},
            "folder": str(file.parent),
            "space": "fresh",
        }
        ended = self._run(Job(entry="execute", profile="build", arguments=arguments, limits=BUILD_LIMITS))
        file.parent.chmod(0o755)
        if ended.ending is Ending.EXITED and ended.exit_code == 0 and target.is_file():
            return target
        self._forget(target)
        return replace(ended, ending=Ending.COMPILE, stdout=b"")

    @staticmethod
    def _forget(build: Path | RunResult) -> None:
        if isinstance(build, Path):
            shutil.rmtree(build.parent, ignore_errors=True)


def _tool(language: str) -> str:
    name = {"cpp": "g++", "javascript": "node"}.get(language)
    if name is None:
        raise SandboxFailedError(f"the sandbox cannot run {language!r}; it can run python, cpp and javascript")
    path = shutil.which(name)
    if path is None:
        raise SandboxFailedError(f"{language} programs need {name}, which is not installed here: install it, or send Python only")
    return os.path.realpath(path) if language == "javascript" else path


def _written(source: str, name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="oprime-build-"))
    folder.chmod(0o755)
    file = folder / name
    file.write_text(source, encoding="utf-8", errors="replace")
    return file


def _refused(reason: str) -> RunResult:
    return RunResult(ending=Ending.COMPILE, stderr=reason.encode())
