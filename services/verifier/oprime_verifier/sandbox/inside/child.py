"""What a child does between the fork and its entry module: descriptors, limits, locks, streams."""

import _signal  # pyright: ignore[reportMissingImports] - what `signal` wraps, whose enumerations cost a child dozens of page faults
import gc
import marshal
import os
import random
import socket
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, NoReturn

from oprime_verifier.sandbox.inside import lockdown, module, stage
from oprime_verifier.sandbox.inside.forking import Forking
from oprime_verifier.sandbox.inside.messages import READY

CHANNEL_FD = 3
KEPT_FDS = stage.REQUEST_FD + 1
"""Descriptors below it stay open."""
SOURCE_NAMES = {"program": stage.SCRIPT_NAME, "checker": stage.SCRIPT_NAME, "call": module.FILE}
"""Entry modules whose jobs can be repeated, and what the source is called in tracebacks."""


def run_job(descriptors: list[int], locks: lockdown.Locks) -> NoReturn:
    """Never returns. `descriptors`: request, stdin, stdout, stderr and perhaps the channel."""
    request, channel = _begin(descriptors, lambda request: lockdown.apply(locks, request, keep_below=KEPT_FDS))
    _take_charge(lambda: _do(request, channel, locks))


def _do(request: dict[str, Any], channel: socket.socket | None, locks: lockdown.Locks) -> None:
    stage.mark(stage.READY)
    _seed(request["seed"])
    if request["repeated"]:
        _serve(request, channel, locks)
    else:
        _enter(request, request["source"], channel)


def _serve(request: dict[str, Any], control: socket.socket | None, locks: lockdown.Locks) -> None:
    """Compile the source once, then fork a child per run of the job, until the supervisor hangs up."""
    assert control is not None  # noqa: S101 - what is repeated is asked for over it
    code, parent = stage.compiled(request["source"], SOURCE_NAMES[request["entry"]]), os.getpid()
    control.send(READY)
    gc.collect()
    gc.freeze()

    def become(descriptors: list[int]) -> NoReturn:
        _run_again(descriptors, request, code, lambda: lockdown.narrow(locks, parent, KEPT_FDS))

    Forking(control, become, groups=False).serve()


def _run_again(descriptors: list[int], first: dict[str, Any], code: CodeType, narrow: Callable[[], None]) -> NoReturn:
    """In a child of a child, which most locks hold already."""
    arguments, channel = _begin(descriptors, lambda _: narrow())
    again = {**first, "arguments": {**first["arguments"], **arguments}}
    _take_charge(lambda: _enter(again, code, channel))


def _begin(descriptors: list[int], close_locks: Callable[[dict[str, Any]], None]) -> tuple[dict[str, Any], socket.socket | None]:
    try:
        has_channel = _take_descriptors(descriptors)
        _reset_signals()
        request = _read_request()
        close_locks(request)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the job must not run
        stage.mark(stage.BROKEN, f"{type(error).__name__}: {error}")
        os._exit(1)
    return request, socket.socket(fileno=CHANNEL_FD) if has_channel else None


def _enter(request: dict[str, Any], source: str | CodeType, channel: socket.socket | None) -> None:
    _count_frames()
    sys.modules[f"{__package__}.{request['entry']}"].main(source, request["arguments"], channel)


def _take_charge(body: Callable[[], None]) -> NoReturn:
    """End the process as `body` ends."""
    try:
        body()
    except SystemExit as ending:
        _flush()
        os._exit(ending.code if isinstance(ending.code, int) else 1)
    except BaseException as error:  # noqa: BLE001 - an entry module that fails is shown on stderr, and ends with code 1
        sys.excepthook(type(error), error, error.__traceback__)
        _flush()
        os._exit(1)
    _flush()
    os._exit(0)


def _take_descriptors(descriptors: list[int]) -> bool:
    """Stdin, stdout, stderr, channel and request become 0 to 4; nothing else stays open."""
    request, stdin, stdout, stderr, *channel = descriptors
    # The zygote keeps 0 to 4 occupied, so no dup2 overwrites a descriptor that is still needed.
    for number, fd in enumerate((stdin, stdout, stderr, *channel)):
        os.dup2(fd, number)
    os.dup2(request, stage.REQUEST_FD)
    if not channel:
        os.close(CHANNEL_FD)
    return bool(channel)


def _reset_signals() -> None:
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def _read_request() -> dict[str, Any]:
    size = os.fstat(stage.REQUEST_FD).st_size - stage.MARK_BYTES
    if size <= 0:
        return {}
    return marshal.loads(os.pread(stage.REQUEST_FD, size, stage.MARK_BYTES))  # noqa: S302 - from the supervisor, and cheaper after a fork than JSON


def _seed(seed: int) -> None:
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)


def _count_frames() -> None:
    """A script starts with an empty stack: the frames above it are ours."""
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(1000 + depth)


def open_streams() -> None:
    """Once, in the zygote, over descriptors that each child fills with its own files: opening them there would cost every child."""
    sys.stdin = sys.__stdin__ = _text(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _text(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _text(2, "w", "backslashreplace", buffering=1)


def _text(fd: int, mode: str, errors: str, buffering: int = -1) -> Any:
    return open(fd, mode, buffering, encoding="utf-8", errors=errors, closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S112 - the stream may be model code
            continue
