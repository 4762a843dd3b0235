"""Namespaces for a whole zygote, where the kernel allows them: no network, no foreign processes, no foreign IPC."""

import contextlib
import os
import signal
from pathlib import Path

from oprime_verifier.sandbox.inside.kernel import mount, prctl, unshare

_USER, _REST = 0x10000000, 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""Mounts, host name, IPC, process ids, network."""
_PRIVATE = 0x40000 | 0x4000
_READ_ONLY = 1
_NO_DEVICES = 2 | 4 | 8
_PR_SET_PDEATHSIG = 1


def enter() -> bool:
    """Move this process into namespaces of its own. On success the caller goes on as process 1 of them, and an outer process waits.

    False where the kernel or a container forbids them.
    """
    flags = _REST if os.geteuid() == 0 and _works(_REST) else _USER | _REST
    if flags & _USER and not _works(flags):
        return False
    uid, gid = os.geteuid(), os.getegid()
    unshare(flags)
    if flags & _USER:
        _map_ids(uid, gid)
    outer = os.getpid()
    inner = os.fork()
    if inner:
        _stand_by(inner)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getpid() != 1 or outer == 1:
        raise OSError("the zygote is not process 1 of its namespace")
    _hide_mounts()
    return True


def _works(flags: int) -> bool:
    """Tried in a process that is thrown away."""
    pid = os.fork()
    if pid == 0:
        try:
            unshare(flags)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _map_ids(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _stand_by(inner: int) -> None:
    """Hold no descriptor, so that the supervisor notices when the inner process ends."""
    os.closerange(0, 4096)
    os.waitpid(inner, 0)
    os._exit(0)


def _hide_mounts() -> None:
    """A /proc of these processes alone: Landlock lets nobody read it, but /dev/stdin leads through it."""
    with contextlib.suppress(OSError):
        mount(b"none", b"/", _PRIVATE)
        mount(b"tmpfs", b"/dev/shm", _READ_ONLY)
    with contextlib.suppress(OSError):
        mount(b"proc", b"/proc", _NO_DEVICES)
