"""Several machines in one: network namespaces that share a bridge, each with an address and a name of its own.

A process that is started with `Host.command` sees the files of this machine, but only its own network: loopback, and one interface on
which the other hosts are. Needs root and the command `ip`; cutting a host off needs `nft`.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

NETWORK = "10.213.77"
RULES = """
table inet cut {
  chain received { type filter hook input priority 0; policy drop; iif lo accept; }
  chain sent { type filter hook output priority 0; policy drop; oif lo accept; }
}
"""
"""Drops in silence, as a broken cable does: nobody is told that a connection has ended."""


def missing(*, cutting: bool = False) -> str:
    """Why this machine can hold no hosts, for `pytest.mark.skipif`; empty if it can. `cutting`: whether they are to be cut off."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [command for command in ("ip", *(["nft"] if cutting else [])) if shutil.which(command) is None]
    if absent:
        return f"needs the command {' and '.join(absent)} (Debian: iproute2, nftables)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"this machine allows no network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def needs_hosts(*, cutting: bool = False) -> pytest.MarkDecorator:
    """Marks tests that need hosts; they are skipped where there can be none."""
    reason = missing(cutting=cutting)
    return pytest.mark.skipif(bool(reason), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One network namespace."""

    name: str
    address: str
    namespace: str

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` on this host. The new process replaces `ip`: its id is that of the program."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def cut(self) -> None:
        """Drop every packet from and to the other hosts until `heal`."""
        _run(self.command("nft", "-f", "-"), given=RULES)

    def heal(self) -> None:
        _run(self.command("nft", "delete", "table", "inet", "cut"))

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        self.cut()
        try:
            yield
        finally:
            self.heal()


@contextmanager
def hosts(names: Sequence[str], *, also_known_as: Mapping[str, Sequence[str]] | None = None) -> Iterator[dict[str, Host]]:
    """One host for each name, by name; gone when the block ends. End the processes on them before.

    On each of them every name leads to that host's address. `also_known_as` gives names that lead to several hosts, as a service's name
    does in a cluster: {"verifier": ["verifier-0", "verifier-1"]}.
    """
    mark = uuid4().hex[:6]
    made = {
        name: Host(name=name, address=f"{NETWORK}.{number}", namespace=f"oprime-{mark}-{name}")
        for number, name in enumerate(names, start=2)
    }
    bridge = f"{mark}-switch"
    switch = f"oprime-{mark}-switch"
    try:
        # The switch has a namespace too, so that nothing of this machine's own network changes.
        _run(["ip", "netns", "add", switch])
        _run(["ip", "-n", switch, "link", "add", bridge, "type", "bridge"])
        _run(["ip", "-n", switch, "link", "set", bridge, "up"])
        for number, host in enumerate(made.values()):
            _plug_in(host, switch, bridge, f"port{number}")
        _name(made, also_known_as or {})
        yield made
    finally:
        for namespace in (*(host.namespace for host in made.values()), switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
            shutil.rmtree(_settings(namespace), ignore_errors=True)
        with suppress(OSError):
            _settings("").rmdir()


def _plug_in(host: Host, switch: str, bridge: str, port: str) -> None:
    _run(["ip", "netns", "add", host.namespace])
    _run(["ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace])
    _run(["ip", "-n", switch, "link", "set", port, "master", bridge, "up"])
    _run(["ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0"])
    for device in ("lo", "eth0"):
        _run(["ip", "-n", host.namespace, "link", "set", device, "up"])
    # As on a machine with one network: whatever is not here is sought there.
    _run(["ip", "-n", host.namespace, "route", "add", "default", "via", f"{NETWORK}.1"])


def _name(made: Mapping[str, Host], groups: Mapping[str, Sequence[str]]) -> None:
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in made.values())]
    lines += [f"{made[member].address} {group}" for group, members in groups.items() for member in members]
    for host in made.values():
        # `ip netns exec` puts these files in the place of those in /etc.
        folder = _settings(host.namespace)
        folder.mkdir(parents=True)
        # This machine's own name leads to the host's address, as each host's own name does on real ones.
        own = f"{host.address} {socket.gethostname()}"
        (folder / "hosts").write_text("\n".join([*lines, own]) + "\n", encoding="utf-8")
        (folder / "resolv.conf").write_text("options attempts:1 timeout:1\n", encoding="utf-8")


def _settings(namespace: str) -> Path:
    return Path("/etc/netns") / namespace


def _run(command: Sequence[str], given: str | None = None) -> None:
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr.strip()}"
