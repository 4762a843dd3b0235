"""A worker process: judges one request at a time, for as long as its parent lives.

Started by `worker.py` as `python -m oprime_verifier.working.judge`. It holds golds and tests; model code runs in the sandbox's processes
alone, and a plug-in has workers of its own.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from types import FrameType
from typing import Any, BinaryIO

from oprime_verifier.working.frames import outcome_to_json, read_frame, request_from_json, write_frame

_PR_SET_PDEATHSIG = 1


def main() -> None:
    _leave_stopping_to_the_parent()
    source, sink = _take_pipes()
    setup = read_frame(source)
    if setup is None:
        return
    _die_with_parent(setup["parent"])
    sys.path[:] = setup["path"]
    _limit_resources(setup["memory_bytes"])
    registry = _prepare(setup, sink)
    if registry is None:
        return
    try:
        while (item := read_frame(source)) is not None:
            _limit_cpu(item["cpu_s"])
            write_frame(sink, _answer(registry, item))
    finally:
        registry.close()


def _leave_stopping_to_the_parent() -> None:
    """A signal that stops the whole service must not end a judgement as if it had failed: the parent kills this process, or its end does.

    With handlers, because a signal that is ignored stays so in every program that a plug-in starts.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _go_on)


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal by nothing."""


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes for frames alone: a plug-in that prints writes to stderr, one that reads finds nothing."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even by SIGKILL while an item hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _limit_resources(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    most = memory_bytes if hardest == resource.RLIM_INFINITY else min(memory_bytes, hardest)
    resource.setrlimit(resource.RLIMIT_AS, (most, hardest))


def _limit_cpu(seconds: float) -> None:
    """Allow one item this much more CPU time, as a second guard beside the parent's deadline."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hardest == resource.RLIM_INFINITY else min(soft, hardest), hardest))


def _prepare(setup: dict[str, Any], sink: BinaryIO) -> Any:
    """Import every verifier before saying ready, so that no item waits for imports; None when a setting is refused."""
    from oprime.runtime.errors import SettingsError

    try:
        registry = _load(setup)
    except SettingsError as error:
        write_frame(sink, {"refused": str(error)})
        return None
    except ImportError as error:
        write_frame(sink, {"refused": f"the verifiers cannot be imported ({error}): install the extra `oprime[verifier]`"})
        return None
    write_frame(sink, {"verifiers": [entry.described() for entry in registry.entries.values()]})
    return registry


def _load(setup: dict[str, Any]) -> Any:
    """The verifiers that the setup asks for, warmed up. Raises SettingsError for one that cannot be used."""
    # Each kind of worker imports only its own: sympy costs a plug-in's worker a second and 60 MB.
    if setup["plugin"] is None:
        from oprime_verifier.built_in import built_in

        return built_in(setup)
    from oprime_verifier.external.loading import load_plugin
    from oprime_verifier.registry import Entry, Registry

    plugin = load_plugin(setup["plugin"])
    return Registry([Entry(name=plugin.name, verify=plugin.verify, version=plugin.version, description=plugin.description)])


def _answer(registry: Any, item: dict[str, Any]) -> dict[str, Any]:
    if "request" not in item:
        return {"id": item["id"], "report": registry.self_test()}
    started = time.perf_counter()
    outcome = registry.judge(request_from_json(item["request"]))
    timings = {**outcome.timings, "judge": time.perf_counter() - started}
    return {"id": item["id"], "outcome": {**outcome_to_json(outcome), "timings": timings}}


if __name__ == "__main__":
    main()
