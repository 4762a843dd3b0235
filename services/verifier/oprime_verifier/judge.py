"""The worker process: judges one response at a time, for as long as its parent lives.

Started by `worker_pool` as `python -m oprime_verifier.judge`. Parent and worker exchange frames over pipes: four bytes of
length (big-endian), then UTF-8 JSON. Model text is data all the way: nothing is unpickled, evaluated or executed.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


def main() -> None:
    source, sink = _take_pipes()
    setup = read_frame(source)
    if setup is None:
        return
    _die_with_parent(setup["parent"])
    sys.path[:] = setup["path"]
    _limit_resources(setup["memory_bytes"])
    registry = _prepare(setup["plugins"], sink)
    while registry is not None and (item := read_frame(source)) is not None:
        _limit_cpu(setup["cpu_s"])
        write_frame(sink, _judge(registry, item))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes for frames alone: a plug-in that prints writes to stderr, one that reads finds nothing."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def read_frame(source: BinaryIO) -> dict[str, Any] | None:
    """The next frame; None when the parent closed the pipe."""
    header = source.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    body = source.read(length)
    return json.loads(body) if len(body) == length else None


def frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return LENGTH.pack(len(body)) + body


def write_frame(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(frame(message))
    sink.flush()


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


def _prepare(plugins: dict[str, str], sink: BinaryIO) -> Any:
    """Import every verifier before saying ready, so that no item waits for imports; None when a setting is refused."""
    from oprime.runtime.errors import SettingsError

    try:
        from oprime_verifier.registry import load_registry

        registry = load_registry(plugins)
        warm = registry.judge("math", "\\boxed{\\sqrt{2}}", "\\frac{2}{\\sqrt{2}}")
    except SettingsError as error:
        write_frame(sink, {"refused": str(error)})
        return None
    except ImportError as error:
        write_frame(sink, {"refused": f"the verifiers cannot be imported ({error}): install the extra `oprime[verifier]`"})
        return None
    entries = [{"name": entry.name, "version": entry.version, "description": entry.description} for entry in registry.entries.values()]
    write_frame(sink, {"ready": True, "verifiers": entries, "warm": warm.status.value})
    return registry


def _judge(registry: Any, item: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    outcome = registry.judge(item["verifier"], item["response"], item["ground_truth"])
    return {
        "id": item["id"],
        "status": outcome.status.value,
        "score": outcome.score,
        "reason": outcome.reason,
        "answer": outcome.answer,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    main()
