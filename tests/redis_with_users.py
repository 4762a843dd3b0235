"""A real Redis server with an access list, and with certificates where its build has them."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oprime.adapters.local_redis import find_server
from oprime.runtime.settings import TlsSection

ADMIN, ADMIN_PASSWORD = "administrator", "administrators-word"
ADMIN_LINE = f"user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all\n"


def has_tls() -> bool:
    """Whether the server of this machine can encrypt."""
    tried = subprocess.run([find_server(), "-"], input="tls-port 0\nunknown-directive\n", capture_output=True, text=True, check=False)
    return "'tls-port" not in tried.stdout + tried.stderr


@contextmanager
def redis_with_users(
    folder: Path,
    access: str,
    *,
    address: str = "127.0.0.1",
    port: int,
    tls: TlsSection | None = None,
    command: Callable[..., Sequence[str]] = lambda *words: [str(word) for word in words],
) -> Iterator[None]:
    """Serve on that port for the length of the block, with the users of `access` and an administrator.

    With `tls`, callers must encrypt and show a certificate of its authority. `command` makes the command line that runs it elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "users.acl").write_text(access + ADMIN_LINE, encoding="utf-8")
    lines = [f"bind {address}", f"dir {folder}", f"aclfile {folder}/users.acl", "appendonly yes", "maxmemory-policy noeviction", 'save ""']
    if tls is None:
        lines.append(f"port {port}")
    else:
        lines += ["port 0", f"tls-port {port}", f"tls-cert-file {tls.certificate_file}", f"tls-key-file {tls.key_file}"]
        lines += [f"tls-ca-cert-file {tls.authority_file}", "tls-auth-clients yes"]
    config, log = folder / "redis.conf", folder / "redis.log"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with log.open("wb") as output, subprocess.Popen(command(find_server(), config), stdout=output, stderr=output) as process:
        try:
            _wait_until_ready(process, log)
            yield
        finally:
            process.terminate()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends = time.monotonic() + 10
    while "eady to accept connections" not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < ends, log.read_text(encoding="utf-8")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
