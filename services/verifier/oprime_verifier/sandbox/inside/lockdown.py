"""The locks of a child, in the order in which they must be closed."""

import contextlib
import functools
import mmap
import os
import resource
import signal
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oprime_verifier.sandbox.inside import kernel, landlock, namespaces, profiles, seccomp

MAX_DESCRIPTORS = 4096
MIB = 1024 * 1024
STACK_BYTES = 64 * MIB
FRESH_BYTES = 32 * MIB
"""Of addresses for a program's own code and libraries."""
RUNTIME_BYTES = 256 * MIB
"""Of data for V8's code, tables and threads, beside the heap that the program fills."""
MAX_TASKS = 128
"""Most threads of a job's user, where each job has one of its own."""
SPARE_TASKS = 1024
"""Most threads and processes more than the zygote found, where all jobs share a user with others."""
FIRST_UID, UIDS = 20000, 40000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_end_with_parent = kernel.prepared_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
_hide_memory = kernel.prepared_prctl(_PR_SET_DUMPABLE, 0)
_get_no_privileges = kernel.prepared_prctl(_PR_SET_NO_NEW_PRIVS, 1)
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_VERSION = 0x20080522
_SEARCH_ANYWHERE = 1 << 2
"""CAP_DAC_READ_SEARCH: a library that only root can reach stays readable; Landlock still decides what is read."""


@dataclass
class Locks:
    """What the zygote found out and built once, for all its children."""

    zygote: int
    machine: str
    baseline_bytes: int = 0
    """Address space of the zygote, which the program did not ask for."""
    calls: seccomp.Filter | None = None
    """Filter of system calls; None when this kernel or machine has none."""
    forking_calls: seccomp.Filter | None = None
    """For the process of a repeated job, which forks."""
    narrowed_calls: seccomp.Filter | None = None
    """For its children: on top of `forking_calls`, it is `calls`."""
    profile: profiles.Profile = field(default_factory=lambda: profiles.Profile((), {}))
    ruleset: int = -1
    """Descriptor of Landlock's rules; -1 when this kernel has none."""
    own_user: bool = False
    """Whether each job can have a user of its own."""
    capabilities: int = 0
    """What a child keeps."""
    max_tasks: int = MAX_TASKS
    namespaces: bool = False

    def described(self) -> dict[str, Any]:
        """For the supervisor."""
        return {
            "landlock": landlock.abi() if self.ruleset >= 0 else 0,
            "seccomp": self.calls is not None,
            "uid": self.own_user,
            "namespaces": self.namespaces,
        }


def enter_namespaces(allowed: bool) -> bool:
    """First of all: the process that goes on may be another one."""
    # The limits of whoever started the zygote are not the programs'; each child gets its own.
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (hard, hard))
    return allowed and namespaces.enter()


def prepare(profile: profiles.Profile, *, tasks: int, in_namespaces: bool) -> Locks:
    """Once per zygote, when it is warm."""
    locks = Locks(zygote=os.getpid(), machine=os.uname().machine, baseline_bytes=_address_space(), namespaces=in_namespaces)
    locks.profile = profile
    with contextlib.suppress(OSError):
        locks.ruleset = landlock.build(profile.files)
    # A compiler has to write.
    read_only = locks.ruleset < 0 and not profile.folder_rights & landlock.WRITE_FILE
    rules = {**profile.rules, **(profiles.READ_ONLY_RULES if read_only else {})}
    with contextlib.suppress(KeyError):
        _filter_calls(locks, profile.allowed, rules)
    _choose_user(locks)
    _capset(locks.capabilities, locks.machine)
    locks.max_tasks = MAX_TASKS if locks.own_user else tasks + SPARE_TASKS
    return locks


def _filter_calls(locks: Locks, allowed: Sequence[str], rules: Mapping[str, seccomp.Action]) -> None:
    """Raises KeyError for a machine whose calls are not known."""
    forking = {**rules, **profiles.FORKING_RULES}
    calls = seccomp.Filter(seccomp.build(allowed, rules, locks.machine))
    if _works(lambda: calls.install(os.getpid())):
        locks.calls = calls
        locks.forking_calls = seccomp.Filter(seccomp.build(allowed, forking, locks.machine))
        locks.narrowed_calls = seccomp.Filter(seccomp.narrow(allowed, rules, profiles.FORKING_RULES, locks.machine))


def apply(locks: Locks, request: dict[str, Any], *, keep_below: int) -> None:
    """Lock this child down, for good, and close the descriptors from `keep_below` on.

    Raises OSError when a lock that worked for the zygote does not close.
    """
    os.setsid()
    _limit(request["limits"], locks, request["arguments"].get("space", "warm"))
    if locks.own_user:
        _become(FIRST_UID + request["user"] % UIDS, locks)
    elif os.geteuid() == 0:
        _capset(0, locks.machine)()
    _cut_ties(locks.zygote)
    if locks.ruleset >= 0:
        landlock.restrict(_ruleset(locks, request["arguments"].get("folder")))
    os.closerange(keep_below, MAX_DESCRIPTORS)
    calls = locks.forking_calls if request["repeated"] else locks.calls
    if calls is not None:
        calls.install(os.getpid())


def narrow(locks: Locks, parent: int, keep_below: int) -> None:
    """The rest of `apply`, in a child that the process of a repeated job has forked: all else it has from there."""
    _end_with(parent)
    os.closerange(keep_below, MAX_DESCRIPTORS)
    if locks.narrowed_calls is not None:
        locks.narrowed_calls.install(os.getpid())


def _cut_ties(zygote: int) -> None:
    _end_with(zygote)
    _hide_memory()
    _get_no_privileges()


def _end_with(parent: int) -> None:
    _end_with_parent()
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _ruleset(locks: Locks, folder: str | None) -> int:
    """A rule set can be narrowed later, never widened, so a job with a folder needs one of its own."""
    if folder is None:
        return locks.ruleset
    return landlock.build([*locks.profile.files, (folder, locks.profile.folder_rights)])


def _limit(limits: dict[str, Any], locks: Locks, space: str) -> None:
    """`space`: `warm`, what the zygote has is not counted; `fresh`, an exec follows; `unbounded`, data are counted, not addresses."""
    cpu_s = max(1, -int(-limits["cpu_s"] // 1))
    memory = int(limits["memory_bytes"])
    # Until the exec, this process is as large as the zygote.
    addresses = {"warm": memory + locks.baseline_bytes, "fresh": memory + FRESH_BYTES, "unbounded": resource.RLIM_INFINITY}[space]
    data = memory + RUNTIME_BYTES if space == "unbounded" else resource.RLIM_INFINITY
    # One byte more than allowed, so that a file at its limit is told from one that wanted more.
    size = int(limits["output_bytes"]) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, size, size),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
        (resource.RLIMIT_SIGPENDING, 64, 64),
        (resource.RLIMIT_NPROC, locks.max_tasks, locks.max_tasks),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, addresses, addresses),
        (resource.RLIMIT_DATA, data, data),
        # Programs that recurse deeply raise it; the address space bounds them then.
        (resource.RLIMIT_STACK, STACK_BYTES, resource.RLIM_INFINITY),
    ):
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
            soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(kind, (soft, hard))


def _address_space() -> int:
    """Bytes of it that this process uses: the highest limit at which it gets no more, as its /proc may be hidden."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 44 if hard == resource.RLIM_INFINITY else hard
    while high - low > MIB:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
        low, high = (low, middle) if _gets_a_page() else (middle, high)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return high


def _gets_a_page() -> bool:
    try:
        mmap.mmap(-1, mmap.PAGESIZE).close()
    except OSError:
        return False
    return True


def _choose_user(locks: Locks) -> None:
    if os.geteuid() != 0:
        return
    for capabilities in (0, _SEARCH_ANYWHERE):
        locks.own_user, locks.capabilities = True, capabilities
        if _works(lambda: _read_library(locks)) and _can_end_another_user(locks):
            return
    locks.own_user, locks.capabilities = False, 0


def _read_library(locks: Locks) -> None:
    _become(FIRST_UID, locks)
    Path(os.__file__).read_bytes()


def _can_end_another_user(locks: Locks) -> bool:
    """Without CAP_KILL a job that is another user's could not be stopped."""
    ready, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(2)
        _become(FIRST_UID, locks)
        os.write(theirs, b"x")
        signal.pause()
    os.read(ready, 1)
    for fd in (ready, theirs):
        os.close(fd)
    with contextlib.suppress(PermissionError):
        os.kill(pid, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def _become(uid: int, locks: Locks) -> None:
    """Give up root, and all capabilities except those the locks name."""
    os.setgroups([])
    if locks.capabilities:
        kernel.prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _capset(locks.capabilities, locks.machine)()


@functools.cache
def _capset(mask: int, machine: str) -> Callable[[], None]:
    """Made ready, which the zygote does once."""
    header = landlock.buffer(struct.pack("=Ii", _CAPABILITIES_VERSION, 0))
    data = landlock.buffer(struct.pack("=6I", mask, mask, 0, 0, 0, 0))
    return kernel.prepared(_CAPSET[machine], header, data)


def _works(attempt: Callable[[], None]) -> bool:
    """Tried in a process that is thrown away."""
    pid = os.fork()
    if pid == 0:
        try:
            _get_no_privileges()
            attempt()
        except BaseException:  # noqa: BLE001 - any failure means that it does not
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
