"""Free ports for servers that other processes will start."""

import socket


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
