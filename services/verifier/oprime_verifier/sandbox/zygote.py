"""The zygote: a warm interpreter that forks one locked-down child per job. Run as a script, never imported.

It holds no gold and no secret, compiles nothing and runs nothing of a model; it takes jobs from its socket, and tells how each ended.
"""

import _sitebuiltins
import builtins
import contextlib
import gc
import importlib
import json
import marshal
import os
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 65536
LAST_LOW_FD = 4


def borrow_packages() -> None:
    """Let `oprime_verifier.sandbox.inside` be imported from beside this file, with nothing else of the service in reach."""
    here = Path(__file__).resolve().parent
    for name, folder in (("oprime_verifier", here.parent), ("oprime_verifier.sandbox", here)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


WARM_MODULES = (
    "array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "io", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "struct", "threading", "time",
    "traceback", "typing",
)  # fmt: skip
"""What programs often import, imported once for all of them."""


@contextlib.contextmanager
def _no_fork_hooks() -> Iterator[None]:
    """Within this, no module can ask to be called in each forked child.

    `random` would seed itself there, as each child does anyway, and `threading` would forget threads, of which a zygote has none;
    together they cost a child a hundred page faults.
    """
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        yield
    finally:
        os.register_at_fork = register


def _warm_up(setup: dict[str, Any]) -> None:
    with _no_fork_hooks():
        for name in WARM_MODULES:
            importlib.import_module(name)
        for name in setup["entries"]:
            importlib.import_module(f"oprime_verifier.sandbox.inside.{name}")
    # `-S` leaves out what `site` gives every script.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    setattr(builtins, "help", _sitebuiltins._Helper())  # noqa: B010
    if setup["profile"] == "numpy":
        sys.path.extend(setup["numpy_path"])
        importlib.import_module("numpy")
        del sys.path[-len(setup["numpy_path"]) :]


def _occupy_low_descriptors() -> None:
    """So that descriptors that arrive later never collide with the numbers that a child gives them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= LAST_LOW_FD:
        continue
    os.close(fd)


def _tasks_of_this_user() -> int:
    """Threads and processes, which RLIMIT_NPROC counts together."""
    uid, count = os.getuid(), 0
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))  # noqa: PTH208 - counted only
    return count


def main() -> None:
    os.environ.clear()
    borrow_packages()
    with _no_fork_hooks():
        from oprime_verifier.sandbox.inside import child, lockdown, profiles
        from oprime_verifier.sandbox.inside.forking import Forking

    control = socket.socket(fileno=int(sys.argv[1]))
    setup = marshal.loads(control.recv(MAX_MESSAGE_BYTES))  # noqa: S302 - from the supervisor
    tasks = _tasks_of_this_user()
    in_namespaces = lockdown.enter_namespaces(setup["namespaces"])
    _warm_up(setup)
    _occupy_low_descriptors()
    child.open_streams()
    profile = profiles.profile_of(setup["profile"], setup["readable"])
    locks = lockdown.prepare(profile, tasks=tasks, in_namespaces=in_namespaces)
    control.send(json.dumps({"layers": locks.described()}).encode())
    forking = Forking(control, lambda descriptors: child.run_job(descriptors, locks), groups=True)
    gc.collect()
    gc.freeze()
    forking.serve()


if __name__ == "__main__":
    main()
