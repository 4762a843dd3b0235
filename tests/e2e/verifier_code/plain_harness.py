# ruff: noqa: S102 - that it runs programs unprotected is its point
"""What the verifier is compared with: the tests in one process with the solution, as the data sets' own harnesses do it. No protection."""

import contextlib
import copy
import io
import json
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

SECONDS = 2


def in_child(work: Callable[[], Any]) -> Any:
    """Run in a forked process with bounds; None where it did not end well."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test runner has its own
            signal.alarm(2 * SECONDS)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                answer = json.dumps(work())
            os.write(write_end, answer.encode()[:60000])
        except BaseException:  # noqa: BLE001, S110 - the parent sees that there is no answer
            pass
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        body = pipe.read()
    os.waitpid(pid, 0)
    try:
        return json.loads(body)
    except ValueError:
        return None


def observe(program: str, preamble: str, name: str, tests: str) -> dict[str, Any] | None:
    """Whether the tests pass, and what each call from the tests returned; for a function that the tests call by `name`."""

    def work() -> dict[str, Any]:
        sys.setrecursionlimit(3000)
        warnings.simplefilter("ignore")
        random.seed(0)
        space: dict[str, Any] = {"__name__": "plain"}
        exec(preamble, space)
        exec(program, space)
        calls: list[str] = []
        inner = space[name]

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            try:
                result = inner(*arguments, **keywords)
            except Exception as error:
                calls.append(type(error).__name__)
                raise
            with contextlib.suppress(Exception):
                result = list(result) if hasattr(result, "__next__") else result
            calls.append(repr(_rounded(copy.deepcopy(result))))
            return result

        space[name] = space["candidate"] = recorded
        try:
            exec(tests, space)
            passed = True
        except BaseException:  # noqa: BLE001 - any failure is one
            passed = False
        return {"passed": passed, "calls": calls[:200]}

    return in_child(work)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list | tuple):
        return type(value)(map(_rounded, value)) if type(value) in (list, tuple) else value
    return sorted(map(repr, value)) if isinstance(value, set) else value
