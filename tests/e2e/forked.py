"""Processes of tests, forked from one that has imported torch and DeepSpeed: that takes seconds, and tests start dozens."""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["e2e.forked_imports"])


class Forked:
    """A process of its own that calls `main` of a module, which it imports itself, with these arguments and this environment."""

    def __init__(self, module: str, arguments: Sequence[object], *, environment: Mapping[str, str], output: Path) -> None:
        """What it writes goes into a new file in the folder `output`."""
        self._output = Path(tempfile.mkstemp(prefix="output-", dir=output)[1])
        words = tuple(map(str, arguments))
        self._process = FORKING.Process(target=_be, args=(module, words, dict(environment), self._output))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def output(self, *, timeout_s: float) -> str:
        """All that it wrote, once it has ended."""
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"a process still runs after {timeout_s:g} s"
        return self._output.read_text(encoding="utf-8")


def environments(ranks: int, port: int) -> list[dict[str, str]]:
    """Of each rank: this process's, with what says which rank of how many it is; a single one is told nothing."""
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "LOCAL_RANK", *group}} | {"OMP_NUM_THREADS": "1"}
    return [{**clean, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)] if ranks > 1 else [clean]


def run_ranks(module: str, arguments: Sequence[object], *, ranks: int, port: int, output: Path, timeout_s: float) -> None:
    """`main` of a module once for each rank, to its end; all of them must end with 0."""
    workers = [Forked(module, arguments, environment=environment, output=output) for environment in environments(ranks, port)]
    try:
        outputs = [worker.output(timeout_s=timeout_s) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, text[-4000:]


def _be(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
