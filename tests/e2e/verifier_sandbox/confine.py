"""Run a command as a container would: `python confine.py docker|restricted|nobody|old-kernel COMMAND...`. Needs root.

`docker`: Docker's default capabilities and an approximation of its filter of system calls. `restricted`: the same filter, another user,
no capability, no new privileges. `nobody`: another user and nothing else. `old-kernel`: as `restricted`, without Landlock.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

from oprime_verifier.sandbox.inside import kernel, landlock, seccomp

UID = 10001
NEW_NAMESPACES = 0x7E020000
KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""Docker's default capabilities."""
REFUSED = {
    "x86_64": {"mount": 165, "umount2": 166, "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248, "perf": 298, "userfaultfd": 323,
               "pivot_root": 155, "io_uring_setup": 425},
    "aarch64": {"mount": 40, "umount2": 39, "setns": 268, "bpf": 280, "keyctl": 219, "add_key": 217, "perf": 241, "userfaultfd": 282,
                "pivot_root": 41, "io_uring_setup": 425},
}  # fmt: skip
BY_FLAGS = {"x86_64": {"clone": 56, "unshare": 272}, "aarch64": {"clone": 220, "unshare": 97}}


def main() -> None:
    mode, command = sys.argv[1], sys.argv[2:]
    _open_interpreter()
    if mode != "nobody":
        _drop_bounding_set()
    if mode != "docker":
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    else:
        _keep(sum(1 << number for number in KEPT))
    if mode != "nobody":
        _filter(without_landlock=mode == "old-kernel")
    os.execve(command[0], command, dict(os.environ))  # noqa: S606 - what it is for


def _open_interpreter() -> None:
    """Where the interpreter lies in root's own folder, others get to see it, and only it, in a private view of the file system."""
    real = Path(sys.executable).resolve()
    top = Path("/") / real.parts[1]
    if top.stat().st_mode & 0o001:
        return
    kernel.unshare(0x20000)
    libc = ctypes.CDLL(None, use_errno=True)
    inner = top / real.parts[2]
    held = os.open(inner, os.O_PATH)
    libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)
    kernel.mount(b"tmpfs", str(top).encode(), 0)
    top.chmod(0o755)
    inner.mkdir()
    if libc.mount(f"/proc/self/fd/{held}".encode(), str(inner).encode(), None, 0x1000 | 0x4000, None):
        raise OSError(ctypes.get_errno(), f"bind {inner}")
    os.close(held)


def _drop_bounding_set() -> None:
    for number in range(41):
        if number not in KEPT:
            kernel.prctl(24, number)


def _keep(mask: int) -> None:
    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
    header = (0x20080522).to_bytes(4, "little") + bytes(4)
    data = b"".join(value.to_bytes(4, "little") for value in (mask, mask, 0, 0, 0, 0))
    kernel.syscall(number, landlock.buffer(header), landlock.buffer(data))


def _filter(*, without_landlock: bool) -> None:
    """Docker installs it before it gives up CAP_SYS_ADMIN; here no_new_privs stands in for that."""
    machine = platform.machine()
    actions: dict[int, seccomp.Action] = dict.fromkeys(REFUSED[machine].values(), seccomp.DENY)
    actions |= dict.fromkeys(BY_FLAGS[machine].values(), seccomp.LacksBits(0, NEW_NAMESPACES))
    actions[435] = seccomp.Missing()
    if without_landlock:
        actions |= dict.fromkeys((444, 445, 446), seccomp.Missing())
    kernel.prctl(38, 1)
    seccomp.Filter(seccomp.assemble(actions, seccomp.ALLOW, machine)).install(os.getpid())


main()
