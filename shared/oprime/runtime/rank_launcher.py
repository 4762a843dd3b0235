"""Starts the ranks of one service on this host, forwards signals to them, and ends with the code of the rank that failed first.

A service over several hosts is the same command on each, with OPRIME_HOSTS, OPRIME_HOST_INDEX and OPRIME_HOST_ADDRESS set. Rank 0, on
host 0, listens at that address. This process imports no torch, so it costs next to nothing beside its ranks.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import structlog

from oprime.runtime.errors import FAILED, OprimeError, SettingsError
from oprime.runtime.setting_rules import split_address

log = structlog.get_logger()

HOSTS, HOST_INDEX, HOST_ADDRESS = "OPRIME_HOSTS", "OPRIME_HOST_INDEX", "OPRIME_HOST_ADDRESS"
LAUNCHER, LISTENER = "OPRIME_RANK_LAUNCHER", "OPRIME_RANK_LISTENER"
"""For ranks: the id of the process that started them, and for rank 0 the file descriptor of the socket that the others connect to."""
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

LEFT_BEHIND_S = 15.0
"""Once one rank has ended, the others end by themselves within this time, or are killed."""
POLL_S = 0.05
LOOK_EVERY_S, SAY_EVERY_S = 0.5, 30.0
SIOCGIFADDR = 0x8915
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The machines, or pods, that share the ranks of one service, and which of them this is."""

    count: int = 1
    index: int = 0
    host: str = "127.0.0.1"
    """Where the ranks of all hosts reach rank 0."""
    port: int = 0
    """0 takes a free one, on a single host."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises SettingsError for values that name no host."""
        count = _number(environment, HOSTS, default=1, least=1)
        if count == 1:
            return cls()
        index = _number(environment, HOST_INDEX, default=None, least=0)
        if index >= count:
            raise SettingsError(f"{HOST_INDEX} = {index} with {HOSTS} = {count}: hosts count from 0 to {count - 1}")
        host, port = split_address(environment.get(HOST_ADDRESS, ""), HOST_ADDRESS)
        if port == 0:
            raise SettingsError(f"{HOST_ADDRESS} = {host}:0: all hosts must know the port; write one that is free on host 0, such as 29500")
        return cls(count=count, index=index, host=host, port=port)

    def share(self, ranks: int, setting: str) -> range:
        """The ranks of this host. Raises SettingsError where hosts would get different numbers."""
        if ranks % self.count:
            raise SettingsError(
                f"{setting} = {ranks} with {HOSTS} = {self.count}: every host starts equally many ranks; set {setting} to a multiple of "
                f"{self.count}, such as {-(-ranks // self.count) * self.count}"
            )
        each = ranks // self.count
        return range(self.index * each, (self.index + 1) * each)


def _number(environment: Mapping[str, str], name: str, *, default: int | None, least: int) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise SettingsError(f"{name} = {text!r}: it must be a whole number of at least {least}; see docs/operations.md, Many hosts")
    return int(text)


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether a launcher, this one or torchrun, has started this process."""
    return "RANK" in environment


def require_world_size(environment: Mapping[str, str], ranks: int, setting: str) -> None:
    """Raise SettingsError where a launcher has started another number of ranks than the settings say."""
    given = environment.get("WORLD_SIZE", "1")
    if given != str(ranks):
        raise SettingsError(
            f"WORLD_SIZE = {given} with {setting} = {ranks}: start as many ranks as the setting says, or set {setting}={given}"
        )


def end_with_launcher() -> None:
    """For ranks: be killed when the process that started this one is."""
    launcher = os.environ.pop(LAUNCHER, "")
    if not launcher or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(launcher):
        os._exit(FAILED)


def launch(command: Sequence[str], *, ranks: int, setting: str, hosts: Hosts) -> int:
    """Run `command` once for each rank of this host until all have ended; returns the exit code. Call from the main thread.

    Raises SettingsError where `ranks` cannot be shared by the hosts, OprimeError where host 0 cannot listen at its address.
    """
    share = hosts.share(ranks, setting)
    return _Launch(command, share, ranks, hosts).run()


class _Launch:
    def __init__(self, command: Sequence[str], share: range, ranks: int, hosts: Hosts) -> None:
        self._command = command
        self._share = share
        self._ranks = ranks
        self._hosts = hosts
        self._stop: int | None = None
        """The signal that asked for the end."""
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._code = 0

    def run(self) -> int:
        before = {name: signal.signal(name, self._hear) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            if self._hosts.index == 0:
                with listener(self._hosts) as listening:
                    host, port = listening.getsockname()[:2]
                    self._start("127.0.0.1" if host == "0.0.0.0" else host, port, listening.fileno())  # noqa: S104 - a comparison
            elif self._reach_host_0():
                self._start(self._hosts.host, self._hosts.port, None)
            self._wait()
        finally:
            for process in self._running.values():
                process.kill()
            for name, old in before.items():
                signal.signal(name, old)
        return self._code

    def _hear(self, number: int, _frame: types.FrameType | None) -> None:
        self._stop = number
        for process in self._running.values():
            process.send_signal(number)

    def _reach_host_0(self) -> bool:
        """Wait until rank 0 listens; whether it does before somebody wants this process to stop."""
        said = 0.0
        while self._stop is None:
            with suppress(OSError), socket.create_connection((self._hosts.host, self._hosts.port), timeout=5):
                return True
            if time.monotonic() > said + SAY_EVERY_S:
                said = time.monotonic()
                log.info("waiting_for_host_0", address=f"{self._hosts.host}:{self._hosts.port}", host=self._hosts.index)
            time.sleep(LOOK_EVERY_S)
        return False

    def _start(self, host: str, port: int, listener: int | None) -> None:
        """`host` and `port` are rank 0's; `listener` is the file descriptor of its socket, where it is started here."""
        common = {
            **os.environ,
            "WORLD_SIZE": str(self._ranks),
            "LOCAL_WORLD_SIZE": str(len(self._share)),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            LAUNCHER: str(os.getpid()),
        }
        common.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // len(self._share))))
        interface = interface_towards(self._hosts.host)
        if interface:
            # Otherwise gloo takes the address that this machine's own name has, which others may not reach.
            common.setdefault(GLOO_INTERFACE, interface)
        for local, rank in enumerate(self._share):
            own = {"RANK": str(rank), "LOCAL_RANK": str(local)}
            if rank == 0 and listener is not None:
                own[LISTENER] = str(listener)
            passed = [listener] if rank == 0 and listener is not None else []
            self._running[rank] = subprocess.Popen(self._command, env=common | own, pass_fds=passed)  # noqa: S603 - this service itself
        log.info("ranks_started", ranks=list(self._share), of=self._ranks, host=self._hosts.index, hosts=self._hosts.count)
        if self._stop is not None:
            self._hear(self._stop, None)

    def _wait(self) -> None:
        deadline: float | None = None
        while self._running:
            for rank, process in list(self._running.items()):
                if (code := process.poll()) is not None:
                    del self._running[rank]
                    deadline = deadline or time.monotonic() + LEFT_BEHIND_S
                    self._note_end(rank, code)
            if deadline is not None and time.monotonic() > deadline:
                for process in self._running.values():
                    process.kill()
            time.sleep(POLL_S if self._running else 0)

    def _note_end(self, rank: int, code: int) -> None:
        if code == 0:
            return
        log.warning("rank_ended", rank=rank, exit_code=code)
        by_stop = self._stop is not None and code == -self._stop  # before it could listen to signals
        self._code = self._code or (128 - code if by_stop else code if code > 0 else FAILED)


def listener(hosts: Hosts) -> socket.socket:
    """Where the other hosts, or their ranks, connect to host 0: only on the interface that has its address, if that is one of this
    machine's. Raises OprimeError."""
    try:
        return socket.create_server((hosts.host, hosts.port))
    except OSError as error:
        if hosts.count == 1 or isinstance(error, PermissionError):
            raise OprimeError(f"host 0 cannot listen on {hosts.host}:{hosts.port}: {error.strerror}") from error
    # A name that is not known yet, or an address that another machine translates.
    try:
        return socket.create_server(("", hosts.port))
    except OSError as error:
        raise OprimeError(
            f"{HOST_ADDRESS} = {hosts.host}:{hosts.port}: host 0 cannot listen on this port: {error.strerror}; end what has it, or name "
            "another port on all hosts"
        ) from error


def address_towards(host: str) -> str:
    """The address under which `host` reaches this machine; empty where that cannot be told. IPv4."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def interface_towards(host: str) -> str:
    """The network interface through which this machine speaks with `host`; empty where that cannot be told. IPv4."""
    own = address_towards(host)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with suppress(OSError):
                    found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                    if socket.inet_ntoa(found[20:24]) == own:
                        return name
    except OSError:
        return ""
    return ""
