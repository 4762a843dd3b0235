"""Free ports for servers that other processes will start, and whether a port is free."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator

from oprime.runtime.errors import SettingsError
from oprime.runtime.setting_rules import split_address


def reserve_port(host: str) -> socket.socket:
    """A socket that keeps a free port of `host` (a name or an address, IPv6 also in brackets) until it is closed. Raises OSError.

    While it is open nobody is given the port who asks for a free one, but a server that names it can listen there, if it allows addresses
    to be used again (SO_REUSEADDR, as gRPC, uvicorn and Redis do).
    """
    bare = host.strip("[]")
    keeper = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET, socket.SOCK_STREAM)
    try:
        keeper.bind((bare, 0))
        # Only now: the kernel may give a socket that allows this from the start a port that another such socket has.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        keeper.close()
        raise
    return keeper


def cannot_listen(host: str, port: int) -> str:
    """Why a server could not listen here; empty when it could."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are only closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bare, port))
            probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return ""


@contextlib.contextmanager
def held(address: str, setting: str, remedy: str) -> Iterator[None]:
    """Keep HOST:PORT, for the length of the block, for a server of this process or of one that it starts; port 0 needs no keeping.

    Raises SettingsError, which ends with `remedy`, where a server could not listen now, or another process holds the address so. Servers
    that share a port (SO_REUSEPORT) hold it against everybody: this asks before the first of them is started.
    """
    host, port = split_address(address, setting)
    if not port:
        yield
        return
    # An abstract name: it belongs to the network namespace, as the port does, and goes with its process.
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0oprime listens on {_number_of(host)}:{port}")
            said = cannot_listen(host, port)
        except OSError as error:
            # Where such names are forbidden nothing is held.
            said = cannot_listen(host, port) if error.errno != errno.EADDRINUSE else os.strerror(errno.EADDRINUSE)
        if said == os.strerror(errno.EADDRINUSE):
            raise SettingsError(f"port {port} is taken: another process listens on {address}, or is about to; {remedy}")
        if said:
            raise SettingsError(f"this machine cannot listen on {address}: {said}; {remedy}")
        yield


@contextlib.contextmanager
def held_all(wanted: Iterable[tuple[str, str, str]]) -> Iterator[None]:
    """As `held`, for several (address, setting, remedy)."""
    with contextlib.ExitStack() as kept:
        for address, setting, remedy in wanted:
            kept.enter_context(held(address, setting, remedy))
        yield


def _number_of(host: str) -> str:
    """The address of a name; an unknown one as it is."""
    bare = host.strip("[]")
    with contextlib.suppress(OSError):
        return str(socket.getaddrinfo(bare, None, socket.AF_INET6 if ":" in bare else socket.AF_INET)[0][4][0])
    return bare
