"""A worker process: judges one request at a time, for as long as its parent lives.

Started by `worker.py` as `python -m oprime_verifier.judge`. It holds golds and tests; model code runs in the sandbox's processes
alone, and a plug-in has workers of its own.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from typing import Any, BinaryIO

from oprime_verifier.frames import outcome_to_json, read_frame, request_from_json, write_frame

_PR_SET_PDEATHSIG = 1


def main() -> None:
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
        from oprime_verifier.registry import load_registry

        registry = load_registry(setup)
    except SettingsError as error:
        write_frame(sink, {"refused": str(error)})
        return None
    except ImportError as error:
        write_frame(sink, {"refused": f"the verifiers cannot be imported ({error}): install the extra `oprime[verifier]`"})
        return None
    write_frame(sink, {"verifiers": [entry.described() for entry in registry.entries.values()]})
    return registry


def _answer(registry: Any, item: dict[str, Any]) -> dict[str, Any]:
    if "request" not in item:
        return {"id": item["id"], "report": registry.self_test()}
    started = time.perf_counter()
    outcome = registry.judge(request_from_json(item["request"]))
    timings = {**outcome.timings, "judge": time.perf_counter() - started}
    return {"id": item["id"], "outcome": {**outcome_to_json(outcome), "timings": timings}}


if __name__ == "__main__":
    main()
