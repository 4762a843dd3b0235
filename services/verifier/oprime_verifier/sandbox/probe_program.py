"""Tries to get out, and prints what came of it: one JSON list per line. Run by the sandbox only.

`argv`: a file of the service, the port of a listener on loopback, the name of an abstract socket, how many probes to pass over. The first
line lists all names.
"""

# ruff: noqa: BLE001, PTH108, PTH123, S108, S606, T201, TRY300 - it does what programs should not
# pyright: basic, reportGeneralTypeIssues=false
import json
import os
import sys

SERVICE_FILE, PORT, ABSTRACT = sys.argv[1:4]
PARENT = getattr(os, "getppid", int)()


def call(number, *arguments):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return True


def number(x86_64, aarch64):
    return aarch64 if getattr(os, "uname", lambda: None)() and os.uname().machine == "aarch64" else x86_64


def environment():
    return bool(os.environ)


def read(*paths):
    def probe():
        refused = None
        for path in paths:
            try:
                with open(path, "rb") as file:
                    file.read(16)
                return True
            except OSError as error:
                refused = error
        raise refused

    return probe


def write(*folders):
    def probe():
        refused = None
        for folder in folders:
            try:
                with open(f"{folder}/oprime-probe", "wb"):
                    pass
                os.unlink(f"{folder}/oprime-probe")
                return True
            except OSError as error:
                refused = error
        raise refused

    return probe


def tcp():
    import socket

    with socket.create_connection(("127.0.0.1", int(PORT)), timeout=0.3):
        return True


def udp():
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"x", ("127.0.0.1", int(PORT))) == 1


def abstract():
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(b"\0" + ABSTRACT.encode())
        return True


def other_sockets():
    import socket

    refused = None
    for family, kind in (("AF_INET", "SOCK_RAW"), ("AF_NETLINK", "SOCK_RAW"), ("AF_VSOCK", "SOCK_STREAM"), ("AF_PACKET", "SOCK_RAW")):
        try:
            socket.socket(getattr(socket, family), getattr(socket, kind)).close()
            return True
        except OSError as error:
            refused = error
    raise refused


def signal_parent():
    os.kill(PARENT, 0)
    return True


def signal_thread_of_parent():
    return call(number(234, 131), PARENT, PARENT, 0)


def signal_by_pidfd():
    fd = os.pidfd_open(PARENT)
    return call(424, fd, 0, None, 0)


def trace_parent():
    return call(number(101, 117), 16, PARENT, 0, 0)


def read_memory_of_parent():
    return call(number(310, 270), PARENT, None, 0, None, 0, 0)


def limit_parent():
    import resource

    return bool(resource.prlimit(PARENT, resource.RLIMIT_CPU))


def user_namespace():
    return call(number(272, 97), 0x10000000)


def mount():
    return call(number(165, 40), b"none", b"/tmp", b"tmpfs", 0, None)


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


def execute():
    os.execve("/bin/sh", ["sh", "-c", "exit 0"], {})


def memory_file():
    os.memfd_create("probe")
    return True


def kernel_interfaces():
    refused = None
    calls = (
        ("io_uring_setup", 425, 425),
        ("bpf", 321, 280),
        ("keyctl", 250, 219),
        ("userfaultfd", 323, 282),
        ("perf_event_open", 298, 241),
    )
    for name, x86_64, aarch64 in calls:
        try:
            return call(number(x86_64, aarch64), 0, 0, 0, 0, 0) and name
        except OSError as error:
            refused = error
            if error.errno not in (1, 38):
                return name
    raise refused


def shared_memory():
    return call(number(29, 194), 0, 4096, 0o1600)


def descriptors():
    for fd in range(3, 1024):
        try:
            os.fstat(fd)
            return True
        except OSError:
            continue
    raise OSError(9, "none is open")


def threads():
    import threading

    go_home = threading.Event()
    try:
        for started in range(300):
            try:
                threading.Thread(target=go_home.wait, daemon=True).start()
            except RuntimeError as error:
                raise OSError(11, f"{started} started: {error}") from None
    finally:
        go_home.set()
    return True


def memory():
    blocks = []
    for _ in range(3 * 64):
        blocks.append(bytearray(16 << 20))
    return True


def flood():
    block = bytes(1 << 20)
    written = 0
    while written < 200 << 20:
        written += os.write(1, block)
    return os.write(1, b"\n")


PROBES = (
    ("environment", environment),
    ("own /proc/self/environ", read("/proc/self/environ")),
    ("environment of others", read("/proc/1/environ", f"/proc/{PARENT}/environ", f"/proc/{PARENT}/mem")),
    ("read /etc/shadow", read("/etc/shadow")),
    ("read a host file", read("/etc/passwd", "/etc/hostname")),
    ("read the service", read(SERVICE_FILE)),
    ("write to the system", write("/etc", "/usr", "/")),
    ("write to shared folders", write("/tmp", "/dev/shm", "/var/tmp", ".")),
    ("TCP to loopback", tcp),
    ("UDP", udp),
    ("abstract socket", abstract),
    ("raw, netlink, vsock and packet sockets", other_sockets),
    ("signal the parent", signal_parent),
    ("signal a thread of the parent", signal_thread_of_parent),
    ("signal by pidfd", signal_by_pidfd),
    ("trace the parent", trace_parent),
    ("read the parent's memory", read_memory_of_parent),
    ("limits of the parent", limit_parent),
    ("user namespace", user_namespace),
    ("mount", mount),
    ("fork", fork),
    ("execute a program", execute),
    ("memory file", memory_file),
    ("io_uring, bpf, keyctl, userfaultfd, perf", kernel_interfaces),
    ("System V shared memory", shared_memory),
    ("descriptors of the judge", descriptors),
    ("300 threads", threads),
    ("3 GiB of memory", memory),
    ("200 MiB of output", flood),
)

print(json.dumps([name for name, _ in PROBES]), flush=True)
for name, probe in PROBES[int(sys.argv[4]) :]:
    try:
        outcome = probe()
        blocked, detail = not outcome, "" if not outcome else f"it succeeded ({outcome})"
    except BaseException as error:
        blocked, detail = True, f"{type(error).__name__}: {error}"
    print(json.dumps([name, blocked, detail[:120]]), flush=True)
