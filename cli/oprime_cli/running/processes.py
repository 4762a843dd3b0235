"""Processes of this machine, read from /proc: who is alive, and what a run has left behind. Linux only.

Imports the standard library alone: `guard.py` runs this without the packages of the environment.
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

MARKER = "OPRIME_SUPERVISION"
"""Environment variable that all processes of one supervisor inherit; its value is the supervisor's own."""

PROC = Path("/proc")
GIVE_UP_S = 10.0


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with its id this names a process once and for all."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_same_process(pid: int, ticks: int | None) -> bool:
    """Whether the process that started at `ticks` is alive."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == ticks


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ...; empty when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def marked(marker: str) -> dict[int, int]:
    """Processes (id -> start ticks) that carry the marker, and all their descendants; never this process or a zombie."""
    wanted = f"{MARKER}={marker}".encode()
    parents, starts = _table()
    carriers = [pid for pid in parents if _carries(pid, wanted)]
    return {pid: starts[pid] for pid in _with_descendants(carriers, parents) if pid != os.getpid()}


def family(roots: Mapping[int, int]) -> dict[int, int]:
    """Processes (id -> start ticks) that descend from `roots`, and those themselves, as far as they live."""
    parents, starts = _table()
    living = [pid for pid, ticks in roots.items() if starts.get(pid) == ticks]
    return {pid: starts[pid] for pid in _with_descendants(living, parents)}


def _table() -> tuple[dict[int, int], dict[int, int]]:
    """Parent and start ticks of every living process."""
    parents: dict[int, int] = {}
    starts: dict[int, int] = {}
    for entry in PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else []
        if fields and fields[0] not in "ZX":
            parents[int(entry.name)], starts[int(entry.name)] = int(fields[1]), int(fields[19])
    return parents, starts


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _with_descendants(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def sweep(marker: str, also: Mapping[int, int], *, grace_s: float) -> int:
    """End every process that carries the marker, and those of `also` (id -> start ticks): SIGTERM, then SIGKILL after `grace_s`.

    Returns how many there were. Gives up on what the kernel has not ended ten seconds after that (a process that waits for a disk).
    """
    known = dict(also)
    terminated: set[int] = set()
    deadline = time.monotonic() + grace_s
    while True:
        # Remembered, because a child without the marker is found only while its parent lives.
        known.update(marked(marker))
        alive = [pid for pid, ticks in known.items() if is_same_process(pid, ticks)]
        now = time.monotonic()
        if not alive or now > deadline + GIVE_UP_S:
            return len(known)
        kill = now >= deadline
        for pid in alive:
            if kill:
                send(pid, signal.SIGKILL)
            elif pid not in terminated:
                send(pid, signal.SIGTERM)
                terminated.add(pid)
        time.sleep(0.05)


def send(pid: int, number: int) -> None:
    """Signal a process; one that has gone is as good as signalled."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def send_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
