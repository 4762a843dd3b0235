"""Payloads as keys of the run's Redis server, beside its queue."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import time
from typing import Any, Self

import redis

from oprime.adapters.redis_connection import RedisAnswers, escaped, key_prefix, open_client
from oprime.ports.payloads import check_payload_names, payload_name
from oprime.runtime.errors import OprimeError, PayloadsUnavailableError, UnusableInputError
from oprime.runtime.settings import QueueSection, TlsSection

MIB = 2**20
PAYLOAD_LIMIT = 500 * MIB
"""Below Redis's own limit of 512 MiB for one string."""
WRITE_BYTES = 16 * MIB
"""Written in one round trip, or one payload if it is larger."""
READ_PAGE = 64
SCAN_PAGE = 1000


class RedisPayloads:
    """The Payloads port on Redis. Make one with `connect` or `of_run`."""

    def __init__(self, client: redis.Redis, run: str) -> None:
        # redis-py types every answer as a union of all protocols; this client has one of them.
        self._client: Any = client
        self._prefix = f"{key_prefix(run)}payload:"
        self._answering = RedisAnswers(client, unavailable=PayloadsUnavailableError)

    @classmethod
    def of_run(cls, section: QueueSection, run: str) -> Self:
        """The payloads of a run on the server that its settings name."""
        return cls.connect(section.url, run=run, password=section.password, username=section.username, tls=section.tls)

    @classmethod
    def connect(cls, url: str, *, run: str, password: str | None = None, username: str = "", tls: TlsSection | None = None) -> Self:
        """Opens no connection yet. SettingsError for an unusable address."""
        return cls(open_client(redis.Redis, url, password, username, tls), run)

    def put(self, owner: str, payload: bytes) -> str:
        return self.put_many([(owner, payload)])[0]

    def put_many(self, payloads: Sequence[tuple[str, bytes]]) -> list[str]:
        """As the port says. Raises UnusableInputError for a payload above PAYLOAD_LIMIT."""
        for owner, payload in payloads:
            if len(payload) > PAYLOAD_LIMIT:
                raise UnusableInputError(
                    f"a payload of {owner} has {len(payload)} bytes; at most {PAYLOAD_LIMIT} ({PAYLOAD_LIMIT // MIB} MiB) fit into Redis: "
                    "set payloads.store to a directory or a URL"
                )
        named = {payload_name(owner, time()): payload for owner, payload in payloads}
        try:
            for page in _pages_by_bytes(named):
                self._write(page)
        except BaseException:
            # Memory is what is short then, and a caller that tries again gets other names.
            with suppress(OprimeError):
                self.delete(list(named))
            raise
        return list(named)

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return self._in_pages(names, READ_PAGE, self._client.mget)

    def delete(self, names: Sequence[str]) -> None:
        self._in_pages(names, SCAN_PAGE, lambda keys: [self._client.unlink(*keys)])

    def names(self, prefix: str = "") -> Iterator[str]:
        # A scan may show a key twice while the table grows.
        seen: set[bytes] = set()
        cursor = 0
        while True:
            with self._answering():
                cursor, page = self._client.scan(cursor, match=escaped(self._prefix + prefix) + "*", count=SCAN_PAGE)
            for key in page:
                if key not in seen:
                    seen.add(key)
                    yield key.decode()[len(self._prefix) :]
            if cursor == 0:
                return

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        return self._in_pages(names, SCAN_PAGE, self._sizes)

    def _write(self, page: list[tuple[str, bytes]]) -> None:
        with self._answering(), self._client.pipeline(transaction=False) as pipeline:
            for name, payload in page:
                pipeline.set(self._prefix + name, payload)
            # What the client itself says of an error in a pipeline shows the payload.
            for answer in pipeline.execute(raise_on_error=False):
                if isinstance(answer, Exception):
                    raise answer

    def _sizes(self, keys: list[str]) -> list[int | None]:
        # STRLEN alone does not tell an empty payload from none.
        with self._client.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.exists(key)
                pipeline.strlen(key)
            answers: list[int] = pipeline.execute()
        return [size if exists else None for exists, size in zip(answers[::2], answers[1::2], strict=True)]

    def close(self) -> None:
        self._client.close()

    def _in_pages(self, names: Sequence[str], page: int, ask: Callable[[list[str]], list[Any]]) -> list[Any]:
        """What `ask` answers for the keys of so many names at a time."""
        check_payload_names(names)
        answers: list[Any] = []
        for first in range(0, len(names), page):
            with self._answering():
                answers += ask([self._prefix + name for name in names[first : first + page]])
        return answers


def _pages_by_bytes(named: dict[str, bytes]) -> Iterator[list[tuple[str, bytes]]]:
    page: list[tuple[str, bytes]] = []
    size = 0
    for name, payload in named.items():
        if page and size + len(payload) > WRITE_BYTES:
            yield page
            page, size = [], 0
        page.append((name, payload))
        size += len(name) + len(payload)
    if page:
        yield page
