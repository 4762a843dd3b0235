"""Which system calls and files each kind of process may use."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from oprime_verifier.sandbox.inside import landlock
from oprime_verifier.sandbox.inside.landlock import ALL_OF_A_FOLDER, EXECUTE, READ, READ_DIR, READ_FILE, WRITE_FILE
from oprime_verifier.sandbox.inside.seccomp import ALLOW, OWN_PID, Action, HasBits, IsNull, LacksBits, Missing, OneOf, Rule

_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000
_UNIX_STREAM = 1

ALLOWED = (
    # Descriptors that are open already.
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "lseek", "close", "close_range",
    "dup", "dup2", "dup3", "ftruncate", "fsync", "fdatasync", "fadvise64", "sendfile", "copy_file_range",
    # Looking at files; Landlock decides which can be opened.
    "open", "openat", "stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat",
    "getcwd", "getdents", "getdents64",
    # Waiting, and talking to itself, as asyncio does.
    "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "pipe", "pipe2",
    "recvfrom", "getsockopt", "setsockopt", "getsockname", "getpeername", "shutdown",
    # Memory, signals to itself, time, threads.
    "mmap", "mprotect", "munmap", "mremap", "madvise", "brk", "membarrier",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "pause",
    "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "alarm", "setitimer", "getitimer",
    "futex", "futex_waitv", "set_robust_list", "get_robust_list", "set_tid_address", "rseq", "sched_yield", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "getcpu", "restart_syscall",
    # What it is, and its end.
    "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "getpgrp", "getpgid",
    "getsid", "getpriority", "getrlimit", "setrlimit", "getrusage", "sysinfo", "uname", "umask", "getrandom", "exit", "exit_group",
    "wait4", "waitid",
)  # fmt: skip
RULES: dict[str, Rule] = {
    # Threads are made; processes are not. glibc falls back from clone3, whose flags a filter cannot see.
    "clone": HasBits(0, _CLONE_THREAD),
    "clone3": Missing(),
    # abort() and os.kill(os.getpid(), ...) work; nobody else can be reached.
    "kill": OneOf(0, (OWN_PID,)),
    "tgkill": OneOf(0, (OWN_PID,)),
    "prlimit64": OneOf(0, (0, OWN_PID)),
    # A pair of connected stream sockets reaches nobody; a datagram socket could send to any address.
    "socketpair": OneOf(1, (_UNIX_STREAM,), mask=0xF),
    "sendto": IsNull(4),
    # Duplicate, flags, seals; not F_SETOWN, which sends signals to others.
    "fcntl": OneOf(1, (0, 1, 2, 3, 4, 1030, 1034)),
    # Terminal queries of isatty() and get_terminal_size(), close-on-exec, FIONREAD, FIONBIO.
    "ioctl": OneOf(1, (0x5401, 0x5413, 0x5450, 0x5451, 0x541B, 0x5421)),
    # Thread names, and questions.
    "prctl": OneOf(0, (3, 15, 16, 21, 39)),
}
FORKING_RULES: dict[str, Action] = {
    "clone": LacksBits(0, _NEW_NAMESPACES), "recvmsg": ALLOW, "kill": ALLOW, "tgkill": ALLOW, "prlimit64": ALLOW, "prctl": ALLOW,
}  # fmt: skip
"""For the process of a repeated job, which runs nothing of a model: it takes descriptors, forks, and ends its children."""
READ_ONLY_RULES: dict[str, Rule] = {"open": LacksBits(1, _WRITING), "openat": LacksBits(2, _WRITING)}
"""Where Landlock is missing, at least nothing is opened for writing."""

_DEVICES = (("/dev/null", READ_FILE | WRITE_FILE), ("/dev/zero", READ_FILE), ("/dev/urandom", READ_FILE), ("/dev/random", READ_FILE))


EXECUTING = ("execve", "arch_prctl", "sched_setaffinity", "statfs", "fstatfs")
"""What a program needs beside `ALLOWED` that starts with an exec."""
BUILDING = (
    *EXECUTING, "fork", "vfork", "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "chmod", "fchmod",
    "fchmodat", "truncate", "chdir",
)  # fmt: skip
"""What a compiler needs: processes of its own, and files in its folder."""
BUILDING_RULES: dict[str, Rule] = {**RULES, "clone": LacksBits(0, _NEW_NAMESPACES)}


@dataclass(frozen=True)
class Profile:
    """What a kind of process may do."""

    allowed: tuple[str, ...]
    rules: dict[str, Rule]
    files: list[landlock.Rule] = field(default_factory=list[landlock.Rule])
    folder_rights: int = 0
    """For the folder of the job, where it has one."""


def profile_of(name: str, readable: Iterable[str]) -> Profile:
    """`bare`, `numpy` (which reads the folders in `readable` too), `build` or `execute`."""
    if name == "build":
        return Profile(BUILDING + ALLOWED, BUILDING_RULES, _compiler_files(), ALL_OF_A_FOLDER & ~EXECUTE)
    if name == "execute":
        return Profile(EXECUTING + ALLOWED, RULES, _program_files(), READ | EXECUTE)
    return Profile(ALLOWED, RULES, python_files(readable if name == "numpy" else ()))


def _compiler_files() -> list[landlock.Rule]:
    run = ("/usr/bin", "/usr/local/bin", "/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/lib", "/lib64")
    read = ("/usr/include", "/usr/local/include", "/etc/alternatives", "/etc/ld.so.cache")
    return [*((path, READ | EXECUTE) for path in run), *((path, READ) for path in read), *_DEVICES]


def _program_files() -> list[landlock.Rule]:
    places = ("/usr/local/bin/node", "/usr/bin/node", "/bin/node")
    node = [os.path.realpath(path) for path in places if os.access(path, os.X_OK)][:1]
    run = [*_shared_folders(), *node]
    read = ("/usr/share/zoneinfo", "/etc/localtime", "/usr/share/nodejs", "/etc/ssl/openssl.cnf", "/usr/lib/ssl")
    return [*((path, READ | EXECUTE) for path in run), *((path, READ) for path in read), *_DEVICES]


def python_files(extra: Iterable[str]) -> list[landlock.Rule]:
    """The standard library, shared objects and time zones, and the folders in `extra`; not installed packages, not this service."""
    library = os.path.dirname(os.__file__)  # noqa: PTH120 - a child pays for each module that a zygote has loaded
    # Listing is allowed from here on, reading only below.
    rules = [(library, READ_DIR), (f"{sys.base_prefix}/lib", READ_DIR)]
    rules += [(f"{library}/{name}", READ) for name in sorted(os.listdir(library)) if name not in ("site-packages", "dist-packages")]  # noqa: PTH208 - names, not paths
    rules += [(path, READ) for path in _shared_folders()]
    rules += [(path, READ) for path in ("/usr/share/zoneinfo", "/etc/localtime", *extra)]
    return [*rules, *_DEVICES]


def _shared_folders() -> list[str]:
    """Folders of shared objects, without trees that hold Python packages."""
    multiarch = getattr(sys.implementation, "_multiarch", "")
    names = [f"{folder}/{multiarch}" for folder in ("/lib", "/usr/lib") if multiarch]
    return [*names, "/lib64", "/usr/lib64", "/etc/ld.so.cache"]
