"""Run model source as a script: a real `__main__` with real file descriptors, and an interpreter's usual way out."""

import _thread
import atexit
import gc
import os
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from oprime_verifier.sandbox.inside.stage import SCRIPT_NAME, compile_source


def main(source: str | types.CodeType, arguments: dict[str, Any], channel: socket.socket | None) -> None:
    """`arguments` may hold `argv`, the script's arguments."""
    code = compile_source(source)
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=sys.modules["builtins"], __file__=SCRIPT_NAME, __cached__=None)
    sys.modules["__main__"] = module
    sys.argv = [SCRIPT_NAME, *map(str, arguments.get("argv", ()))]
    leave(_run(lambda: exec(code, module.__dict__)), module)  # noqa: S102 - what the sandbox is for


def leave(exit_code: int, module: types.ModuleType) -> None:
    """End the process as an interpreter does: wait for threads, run exit functions, drop globals (which flushes files), flush."""
    if _thread._count() or threading._threading_atexits:  # type: ignore[attr-defined] # a program without threads waits for none
        exit_code = _run(threading._shutdown) or exit_code  # type: ignore[attr-defined] # what Py_Finalize calls
    atexit._run_exitfuncs()  # what Py_Finalize calls
    module.__dict__.clear()
    gc.collect()
    os._exit(_flush() or exit_code)


def _run(body: Callable[[], Any]) -> int:
    try:
        body()
    except SystemExit as ending:
        return _exit_code(ending.code)
    except BaseException as error:  # noqa: BLE001 - whatever model code raised ends it with code 1
        # The frames of this module are no part of the program.
        trace = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1
    return 0


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _flush() -> int:
    """120 when buffered output could not be written, as the interpreter has it."""
    failed = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001 - the stream may be model code
            failed = 120
    return failed
