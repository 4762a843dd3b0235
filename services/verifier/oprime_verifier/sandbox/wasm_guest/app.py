"""What runs inside the WebAssembly component: a CPython interpreter whose memory was saved once all its modules were imported.

Built into the component by `wasm_build.py`; the service never imports it. A run starts from the saved memory, so anything set at the top
level here costs a run nothing, and nothing of a run is left for the next one.
"""

import builtins
import gc
import importlib
import json
import os
import posix
import random
import sys
import threading
import time
from typing import Any

import wit_world  # type: ignore[import-not-found] # made by componentize-py

from oprime_verifier.sandbox.inside import stage

_UNWANTED = frozenset({"__main__", "antigravity", "ensurepip", "idlelib", "this", "tkinter", "turtle", "turtledemo", "venv"})
_SUBMODULES = (
    "collections.abc", "concurrent.futures", "email.message", "html.parser", "importlib.metadata", "importlib.resources",
    "json.decoder", "logging.handlers", "os.path", "unittest.mock", "urllib.parse", "xml.dom.minidom", "xml.etree.ElementTree",
)  # fmt: skip
_ENTRIES = ("program", "call", "tester", "subject", "checker")
_CHANNEL_CHUNK = 1 << 20


class WitWorld(wit_world.WitWorld):
    def run(self, request: str) -> None:
        job = json.loads(request)
        _open_streams()
        random.seed(job["seed"])
        channel = Channel() if job["channel"] else None
        _allow_depth()
        code = 1
        try:
            _entry(job["entry"])(job["source"], job["arguments"], channel)
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        except BaseException as error:  # noqa: BLE001 - an entry module that fails is shown on stderr, and ends with code 1
            sys.excepthook(type(error), error, error.__traceback__)
        _flush()
        _finish(code)


class Channel:
    """The part of a connected stream socket that entry modules use, over the host's `receive` and `send`."""

    def recv(self, most: int, flags: int = 0) -> bytes:
        return wit_world.receive(min(most, _CHANNEL_CHUNK)).encode("latin-1")

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _CHANNEL_CHUNK):
            wit_world.send(str(view[start : start + _CHANNEL_CHUNK], "latin-1"))

    def settimeout(self, seconds: float | None) -> None:
        """The host's own deadline ends a run that waits."""

    def close(self) -> None:
        """The host closes it when the run ends."""


def _entry(name: str) -> Any:
    return sys.modules[f"{stage.__package__}.{name}"].main


def _open_streams() -> None:
    sys.stdin = sys.__stdin__ = _text(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _text(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _text(2, "w", "backslashreplace", 1)


def _text(fd: int, mode: str, errors: str, buffering: int = -1) -> Any:
    return open(fd, mode, buffering, encoding="utf-8", errors=errors, closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S112 - the stream may be model code
            continue


def _allow_depth() -> None:
    """A script starts with an empty stack: the frames above it are ours."""
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(1000 + depth)


def _finish(code: int) -> None:
    # As a process's exit status has it.
    wit_world.finish(int(code) & 0xFF)


def _abort() -> None:
    wit_world.finish(-6)


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    wit_world.pause(min(int(seconds * 1e9), 2**63))


class ThreadHandle:
    """Of a thread that has run by the time anyone asks."""

    ident = 0

    def is_done(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        """Nothing is left to wait for."""

    def _set_done(self) -> None:
        """It is."""


def _run_thread_at_once(function: Any, handle: Any = None, daemon: bool = True) -> Any:
    """There are no threads here, but the usual script that starts one with a big stack and joins it needs none."""
    active: dict[int, Any] = threading._active  # type: ignore[attr-defined] # the thread's own end removes ours
    ours = dict(active)
    try:
        function()
    finally:
        active.update(ours)
    return handle


def _mark(mark: bytes, reason: str = "") -> None:
    wit_world.note(mark.decode(), reason.encode(errors="replace").decode())


def _import_everything() -> None:
    """A run has no file system, so what is not imported now can never be."""
    for name in (*sorted(sys.stdlib_module_names - _UNWANTED), *_SUBMODULES):
        if not name.startswith(("_test", "_xx", "test")):
            _import_if_there(name)
    for name in _ENTRIES:
        _import_if_there(f"{stage.__package__}.{name}")


def _import_if_there(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        return


def _adapt() -> None:
    """Give this interpreter the endings, the clock and the threads that the host knows; its own lose exit codes or never return."""
    os._exit = posix._exit = _finish
    os.abort = posix.abort = _abort
    time.sleep = _sleep
    threading.__dict__.update(_start_joinable_thread=_run_thread_at_once, _ThreadHandle=ThreadHandle)
    stage.mark = _mark
    stage.close_marks = lambda: None
    for name in ("quit", "exit"):
        if not hasattr(builtins, name):
            setattr(builtins, name, sys.exit)


_import_everything()
_adapt()
sys.path.clear()
sys.path_importer_cache.clear()
gc.collect()
gc.freeze()
