"""A connection to Redis, and what its errors mean: one wording for all that speaks to the run's server."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import structlog
from redis import asyncio as aio
from redis import exceptions as errors
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from oprime.runtime.errors import OprimeError, QueueUnavailableError, SettingsError
from oprime.runtime.queue_url import queue_url_problem, without_password
from oprime.runtime.settings import TlsSection

log = structlog.get_logger()

ClientT = TypeVar("ClientT", redis.Redis, aio.Redis)

SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
OLDEST_VERSION = (6, 2)
KEEPS_ALL = "noeviction"
TLS_OPTIONS = {"certificate_file": "ssl_certfile", "key_file": "ssl_keyfile", "authority_file": "ssl_ca_certs"}
"""Setting in [queue.tls] -> the client's option."""


def key_prefix(run: str) -> str:
    """What all keys of a run begin with; they share the hash tag {RUN}."""
    return f"oprime:{{{run}}}:"


def escaped(prefix: str) -> str:
    """A text for a pattern of Redis that matches nothing but itself."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix)


class _Cancellable(AbstractConnection):
    """Loses no cancellation: Python 3.11's asyncio.wait_for, which the client sends with, returns in spite of one that comes as it ends."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        task = asyncio.current_task()
        requests = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > requests:
            # Nobody is going to read the answer.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


class PlainConnection(_Cancellable, aio.Connection):
    """Over TCP."""


class SocketConnection(_Cancellable, aio.UnixDomainSocketConnection):
    """Over a unix socket."""


class RenewingConnection(_Cancellable, aio.SSLConnection):
    """Reads its certificates anew each time it connects, as the synchronous one does by itself."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        return super()._connection_arguments()


_CONNECTIONS = {
    aio.Connection: PlainConnection,
    aio.UnixDomainSocketConnection: SocketConnection,
    aio.SSLConnection: RenewingConnection,
}


def open_client(kind: type[ClientT], url: str, password: str | None, username: str = "", tls: TlsSection | None = None) -> ClientT:
    """A client of the server at `url`; opens no connection yet. SettingsError for an unusable address."""
    problem = queue_url_problem(url)
    if problem:
        raise SettingsError(problem)
    # Nothing is repeated behind the caller's back: a lost answer to a read must be noticed, not read twice.
    never = Retry(NoBackoff(), 0) if kind is redis.Redis else AsyncRetry(NoBackoff(), 0)
    options: dict[str, Any] = {"retry": never, "socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    # The client would tell its name, which a user with few rights may not.
    options |= {"username": username or None, "password": password, "protocol": 2, "driver_info": None}
    options |= {TLS_OPTIONS[name]: str(path) for name, path in (tls.files if tls else {}).items()}
    try:
        client = kind.from_url(url, **options)
    except ValueError as error:
        raise SettingsError(f"queue.url = {without_password(url)!r} is not an address of Redis: {error}") from error
    pool: Any = client.connection_pool
    pool.connection_class = _CONNECTIONS.get(pool.connection_class, pool.connection_class)
    return client


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """What to make of an error: QueueUnavailableError for what passes by waiting, SettingsError for what never will."""

    kinds: tuple[type[Exception], ...] = ()
    signs: tuple[str, ...] = ()
    """Parts of the text, where redis-py or a script may have replaced the code in front."""
    error: type[OprimeError]
    text: str


_LOST = _Meaning(
    signs=("NOGROUP", "UNBLOCKED"),
    error=QueueUnavailableError,
    text="lost its streams ({cause}): it was emptied while the run went on; keep appendonly on, and use oprime resume to put the work back",
)
_MEANINGS = (
    _Meaning(
        kinds=(errors.AuthenticationError, errors.AuthorizationError),
        error=SettingsError,
        text="refuses the password ({cause}): put the right one into queue.password_file, and the user it belongs to into queue.username",
    ),
    _Meaning(
        kinds=(errors.NoPermissionError,),
        # Of the server itself, and of a script on 6.2 and on 7.
        signs=("NOPERM", "user executing the script can't", "ACL failure in script"),
        error=SettingsError,
        text="forbids what the queue needs ({cause}): give its user what `oprime redis-acl` says, or all commands on the keys oprime:*",
    ),
    _Meaning(
        kinds=(errors.InvalidResponse,),
        error=SettingsError,
        text="does not speak Redis's protocol ({cause}): queue.url must name a Redis server",
    ),
    _Meaning(
        kinds=(errors.MovedError, errors.AskError, errors.ClusterCrossSlotError),
        error=SettingsError,
        text="is a node of a cluster ({cause}): queue.url must name one server that holds all keys, cluster mode off",
    ),
    _Meaning(
        signs=("DB index is out of range", "nvalid DB index", "SELECT is not allowed", "nvalid Database"),
        error=SettingsError,
        text="does not have the database that queue.url names ({cause}): put a smaller number at its end, or none",
    ),
    _Meaning(
        signs=("nknown command", "nknown Redis command"),
        error=SettingsError,
        text="is too old or forbids what the queue needs ({cause}): oprime needs Redis 6.2, Valkey 7.2 or newer",
    ),
    _Meaning(
        signs=("WRONGTYPE",),
        error=SettingsError,
        text="holds something else under this run's names ({cause}): choose another run.name, or another database in queue.url",
    ),
    _Meaning(
        signs=("command not allowed when used memory", "MISCONF", "No space left on device"),
        error=QueueUnavailableError,
        text="cannot store more ({cause}): give it more memory (maxmemory) or disk, or keep the payloads elsewhere (payloads.store); "
        "nothing was changed, and work goes on once there is room",
    ),
    _Meaning(
        signs=("READONLY", "read only replica", "NOREPLICAS"),
        error=QueueUnavailableError,
        text="takes no writes now ({cause}): queue.url must name the primary",
    ),
    _LOST,
    _Meaning(
        kinds=(errors.BusyLoadingError, errors.ClusterDownError, errors.TryAgainError),
        signs=("BUSY ",),
        error=QueueUnavailableError,
        text="cannot answer yet ({cause}): work goes on once it can",
    ),
)
"""The first that fits counts."""


class RedisAnswers:
    """`with answers():` turns whatever the client raises into an error of ours with the address, the cause and the remedy.

    What passes by waiting is `unavailable`.
    """

    def __init__(self, client: redis.Redis | aio.Redis, *, unavailable: type[QueueUnavailableError]) -> None:
        pool: Any = client.connection_pool
        where = pool.connection_kwargs
        self.address: str = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        self._is_secure = issubclass(pool.connection_class, redis.SSLConnection | aio.SSLConnection)
        self._unavailable = unavailable
        self.on_loss: Callable[[], None] = lambda: None
        """Called when the server has lost its streams."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except (errors.RedisError, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> OprimeError:
        cause = str(error)
        meaning = next((one for one in _MEANINGS if isinstance(error, one.kinds) or any(sign in cause for sign in one.signs)), None)
        if meaning is not None:
            if meaning is _LOST:
                self.on_loss()
            kind = self._unavailable if meaning.error is QueueUnavailableError else meaning.error
            return kind(f"Redis at {self.address} {meaning.text.format(cause=cause)}")
        if isinstance(error, errors.ConnectionError | errors.TimeoutError | OSError):
            return self._no_answer(error)
        return OprimeError(
            f"Redis at {self.address} refuses a command of the queue ({cause}): check that it is Redis 6.2, Valkey 7.2 or newer, and that "
            "nothing else writes the keys oprime:*"
        )

    def _no_answer(self, error: Exception) -> OprimeError:
        where = f"Redis at {self.address}"
        problem = next((cause for cause in _causes(error) if isinstance(cause, _LASTING_TLS_ERRORS)), None) if self._is_secure else None
        if problem is not None:
            return SettingsError(f"{where} cannot be trusted or spoken to in secret ({problem}): {_tls_remedy(problem)}")
        other = " (redis:// if it does not encrypt)" if self._is_secure else " (rediss:// if it encrypts)"
        scheme = "" if self.address.startswith("/") else other
        return self._unavailable(
            f"{where} does not answer ({error}): check that it runs and that queue.url names it{scheme}; "
            "workers wait and connect again by themselves"
        )


class RedisPart:
    """What all parts of a run's queue share: the server, the run's keys on it, and scripts that run there."""

    def __init__(self, client: aio.Redis, run: str) -> None:
        # redis-py types every answer as a union of all protocols; this client has one of them.
        self._client: Any = client
        self._answering = RedisAnswers(client, unavailable=QueueUnavailableError)
        self._prefix = key_prefix(run)
        self._scripts: dict[str, Any] = {}
        self._warned: set[str] = set()

    def _key(self, name: str) -> str:
        return self._prefix + name

    async def _run(self, script: str, *, keys: list[str], args: Sequence[Any]) -> Any:
        """What a script answers; it runs as one atomic step."""
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        with self._answering():
            return await self._scripts[script](keys=keys, args=args)

    async def ping(self) -> None:
        with self._answering():
            await self._client.ping()

    async def check_server(self) -> None:
        """As the port says. Asks INFO, and CONFIG GET where INFO does not tell; managed servers may forbid both."""
        info = await self._ask(self._client.info) or {}
        version = str(info.get("redis_version", ""))
        if version and _version(version) < OLDEST_VERSION:
            raise SettingsError(f"Redis at {self._answering.address} is version {version}: oprime needs Redis 6.2, Valkey 7.2 or newer")
        policy = info.get("maxmemory_policy") or await self._configured("maxmemory-policy")
        if policy is None:
            self._warn_once("redis_unchecked", f"neither INFO nor CONFIG GET says its maxmemory-policy: it must be {KEEPS_ALL}")
        elif policy != KEEPS_ALL:
            raise SettingsError(
                f"Redis at {self._answering.address} has maxmemory-policy {policy}: it would throw away parts of the run when its memory "
                f"is full; set maxmemory-policy {KEEPS_ALL}"
            )
        if info.get("aof_enabled") == 0:
            self._warn_once("redis_not_durable", "appendonly is off: what is under way is lost when the server ends; set appendonly yes")
        elif await self._configured("appendfsync") in {"everysec", "no"}:
            self._warn_once(
                "redis_not_durable",
                "appendfsync is not always: seconds of confirmed work are lost when the server is killed while its disk is busy, or with "
                "its machine; set appendfsync always",
            )

    async def _configured(self, name: str) -> str | None:
        """What CONFIG GET tells, if this user may ask."""
        found = await self._ask(lambda: self._client.config_get(name)) or {}
        return next((value.decode() if isinstance(value, bytes) else str(value) for value in found.values()), None)

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any | None:
        """The answer, or None if this user may not ask."""
        with self._answering():
            try:
                return await question()
            except errors.ResponseError as error:
                if isinstance(error, errors.NoPermissionError) or "nknown" in str(error):
                    return None
                raise

    def _warn_once(self, event: str, reason: str) -> None:
        if event not in self._warned:
            self._warned.add(event)
            log.warning(event, address=self._answering.address, reason=reason)

    async def close(self) -> None:
        await self._client.aclose()


# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_WRONG_NAMES = (62, 64)
_PASSING_TLS_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_LASTING_TLS_ERRORS = (ssl.SSLError, FileNotFoundError, PermissionError, IsADirectoryError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, but for what passes."""
    while error is not None:
        if not isinstance(error, _PASSING_TLS_ERRORS):
            yield error
        error = error.__cause__ or error.__context__


def _tls_remedy(problem: BaseException) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        if problem.verify_code in _WRONG_NAMES:
            return "write the name that is in its certificate into queue.url"
        return "name the certificate of its authority in queue.tls.authority_file"
    if isinstance(problem, ssl.SSLError) and problem.reason == "WRONG_VERSION_NUMBER":
        return "it does not encrypt, so begin queue.url with redis://"
    return "check the files that queue.tls (or the ssl_ options of queue.url) names, and that it encrypts"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
