"""The queue on Redis Streams: Redis 6.2 or newer, or Valkey. The only module that speaks to Redis."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Self

import structlog
from redis import asyncio as aio
from redis import exceptions as errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from oprime.adapters import redis_scripts as scripts
from oprime.adapters.queue_rules import (
    DEAD,
    RolloutIdsOf,
    check_most,
    check_moves,
    check_outputs,
    check_state,
    check_stream,
    count_key,
    overdue_reason,
    rollouts_of,
)
from oprime.ports import LIVE, STREAMS, DeadLetter, Delivery, LedgerMove, Output, QueueDepth
from oprime.runtime.errors import QueueUnavailableError, SettingsError
from oprime.runtime.settings import QueueSection
from oprime.wire.rollout_ids import rollout_ids

log = structlog.get_logger()

GROUP = "workers"
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
LONGEST_BLOCK_S = 2.0
PAGE = 16
LEDGER_PAGE = 1000

# Parts of answers, with which redis-py or a script may have replaced the code in front.
_FULL = ("command not allowed when used memory", "MISCONF", "No space left on device")
_READ_ONLY = ("READONLY", "read only replica", "NOREPLICAS")


class RedisQueue:
    """The Queue port. All keys of a run share the hash tag {RUN}. Make one with `connect`."""

    def __init__(
        self,
        client: aio.Redis,
        *,
        run: str,
        address: str,
        lease_s: float,
        max_deliveries: int,
        rollout_ids_of: RolloutIdsOf = rollout_ids,
    ) -> None:
        # redis-py types every answer as a union of all protocols; this client has one of them.
        self._client: Any = client
        self._address = address
        self._lease_s = lease_s
        self._lease_ms = max(1, round(lease_s * 1000))
        self._max_deliveries = max_deliveries
        self._rollout_ids_of = rollout_ids_of
        self._prefix = f"oprime:{{{run}}}:"
        self._streams = {name: self._key(f"stream:{name}") for name in (*STREAMS, DEAD)}
        self._grouped: set[str] = set()
        self._last_held: dict[tuple[str, str], str] = {}
        self._unsure: set[tuple[str, str]] = set()
        self._commit = client.register_script(scripts.COMMIT)
        self._take = client.register_script(scripts.TAKE)
        self._held = client.register_script(scripts.HELD)
        self._renew = client.register_script(scripts.RENEW)
        self._dead_letter = client.register_script(scripts.DEAD_LETTER)
        self._replay = client.register_script(scripts.REPLAY)
        self._depth = client.register_script(scripts.DEPTH)
        self._take_turn = client.register_script(scripts.TAKE_TURN)
        self._end_turn = client.register_script(scripts.END_TURN)

    @classmethod
    def of_run(cls, section: QueueSection, run: str) -> Self:
        """The queue that a run's settings name."""
        return cls.connect(section.url, run=run, password=section.password, lease_s=section.lease_s, max_deliveries=section.max_deliveries)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        run: str,
        password: str | None = None,
        lease_s: float = 30.0,
        max_deliveries: int = 3,
        rollout_ids_of: RolloutIdsOf = rollout_ids,
    ) -> Self:
        """Make a queue for a run. Opens no connection yet: `ping` says whether Redis answers. SettingsError for an unusable address."""
        try:
            # Nothing is repeated behind the caller's back: a lost answer to a read must be noticed, not read twice.
            client = aio.Redis.from_url(
                url,
                password=password,
                protocol=2,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise SettingsError(f"queue.url is not an address of Redis ({error}): use redis://, rediss:// or unix://") from error
        where = client.connection_pool.connection_kwargs
        address = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        return cls(client, run=run, address=address, lease_s=lease_s, max_deliveries=max_deliveries, rollout_ids_of=rollout_ids_of)

    async def commit(
        self,
        mark: str,
        *,
        outputs: Sequence[Output] = (),
        moves: Sequence[LedgerMove] = (),
        values: Mapping[str, bytes] | None = None,
        consumed: Sequence[Delivery] = (),
    ) -> bool:
        """As the port says, in one script. Also False, and nothing at all happens, if a consumed entry became a dead letter meanwhile:
        its rollouts are dead, and a replay will do the work.
        """
        check_outputs(outputs)
        check_moves(moves)
        keys = [self._key("marks"), self._key("ledger"), self._key("counts"), self._key("values"), self._key("set_aside")]
        index = {name: len(keys) + 1 + place for place, name in enumerate(STREAMS)}
        keys += [self._streams[name] for name in STREAMS]
        args: list[Any] = [GROUP, mark]
        args += _counted((index[output.stream], output.key, output.payload) for output in outputs)
        args += _counted((move.rollout_id, move.state) for move in moves)
        args += _counted((values or {}).items())
        args += _counted((index[delivery.stream], delivery.stream, delivery.entry) for delivery in consumed)
        with self._answering():
            verdict = await self._commit(keys=keys, args=args)
        if verdict == -1:
            log.warning("commit_refused", mark=mark, reason="its entry is a dead letter")
        return verdict == 1

    async def receive(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        check_most(most)
        ends = monotonic() + wait_s
        while True:
            deliveries = await self._take_once(stream, consumer, most)
            if deliveries or wait_s <= 0:
                return deliveries
            left_s = ends - monotonic()
            if left_s <= 0:
                return []
            # Look for leases that ran out while waiting, too.
            deliveries = await self._read_new(stream, consumer, most, min(left_s, self._lease_s / 2))
            if deliveries:
                return deliveries

    async def receive_again(self, stream: str, consumer: str) -> list[Delivery]:
        deliveries: list[Delivery] = []
        after = "0-0"
        while True:
            rows = await self._read_held(stream, consumer, after, PAGE)
            if not rows:
                break
            after = rows[-1][0].decode()
            deliveries += _deliveries(stream, rows)
        self._last_held[stream, consumer] = after
        self._unsure.discard((stream, consumer))
        return deliveries

    async def receive_held(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        check_most(most)
        ends = monotonic() + wait_s
        while True:
            deliveries = await self._held_once(stream, consumer, most, max(0.0, ends - monotonic()))
            if deliveries or monotonic() >= ends:
                return deliveries

    async def renew(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        for stream, entries in _by_stream(deliveries).items():
            await self._on_group(self._renew, stream, [consumer, *entries])

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        with self._answering():
            async with self._client.pipeline(transaction=True) as pipeline:
                for stream, entries in _by_stream(deliveries).items():
                    pipeline.xack(self._streams[stream], GROUP, *entries)
                    pipeline.xdel(self._streams[stream], *entries)
                await pipeline.execute()

    async def dead_letter(self, delivery: Delivery, *, reason: str, rollout_ids: Sequence[str] = ()) -> None:
        """Without `rollout_ids`, they are read from the payload. Does nothing to an entry that another worker finished."""
        check_stream(delivery.stream)
        ids = rollout_ids or rollouts_of(delivery, self._rollout_ids_of)
        with self._answering():
            await self._dead_letter(keys=self._letter_keys(delivery.stream), args=[GROUP, delivery.entry, delivery.stream, reason, *ids])

    async def dead_letters(self) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        after = "-"
        while True:
            with self._answering():
                rows = await self._client.xrange(self._streams[DEAD], min=after, count=PAGE)
            letters += [_letter(entry, fields) for entry, fields in rows]
            if len(rows) < PAGE:
                return letters
            after = "(" + rows[-1][0].decode()

    async def replay(self, letter: DeadLetter) -> bool:
        check_stream(letter.stream)
        with self._answering():
            return bool(await self._replay(keys=self._letter_keys(letter.stream), args=[letter.entry]))

    async def depth(self, stream: str) -> QueueDepth:
        entries, pending, age_ms = await self._on_group(self._depth, stream, [])
        return QueueDepth(stream=stream, waiting=max(0, entries - pending), pending=pending, oldest_s=age_ms / 1000)

    async def ledger_counts(self) -> dict[str, int]:
        with self._answering():
            counts = await self._client.hgetall(self._key("counts"))
        known = {state.decode(): int(number) for state, number in counts.items()}
        return {"issued": 0, LIVE: 0} | {state: number for state, number in known.items() if number or state in ("issued", LIVE)}

    async def ledger_entries(self) -> AsyncIterator[tuple[str, str]]:
        # A scan may show an entry twice while the hash grows.
        seen: set[bytes] = set()
        async for rollout_id, state in self._scan("ledger"):
            if rollout_id not in seen:
                seen.add(rollout_id)
                yield rollout_id.decode(), state.decode()

    async def restore_ledger(self, entries: Mapping[str, str]) -> None:
        counts: dict[str, int] = {"issued": len(entries), LIVE: 0}
        for state in entries.values():
            check_state(state)
            counts[count_key(state)] = counts.get(count_key(state), 0) + 1
        rows = list(entries.items())
        with self._answering():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(self._key("ledger"), self._key("counts"))
                for first in range(0, len(rows), LEDGER_PAGE):
                    pipeline.hset(self._key("ledger"), mapping=dict(rows[first : first + LEDGER_PAGE]))
                pipeline.hset(self._key("counts"), mapping=counts)
                await pipeline.execute()

    async def set_value(self, name: str, value: bytes) -> None:
        with self._answering():
            await self._client.hset(self._key("values"), name, value)

    async def value(self, name: str) -> bytes | None:
        with self._answering():
            return await self._client.hget(self._key("values"), name)

    async def values(self, prefix: str) -> dict[str, bytes]:
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix) + "*"
        return {name.decode(): value async for name, value in self._scan("values", pattern)}

    async def take_turn(self, name: str, owner: str, *, seconds: float) -> bool:
        with self._answering():
            return bool(await self._take_turn(keys=[self._key(f"turn:{name}")], args=[owner, max(1, round(seconds * 1000))]))

    async def end_turn(self, name: str, owner: str) -> None:
        with self._answering():
            await self._end_turn(keys=[self._key(f"turn:{name}")], args=[owner])

    async def ping(self) -> None:
        with self._answering():
            await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _letter_keys(self, stream: str) -> list[str]:
        return [self._streams[stream], self._streams[DEAD], self._key("ledger"), self._key("counts"), self._key("set_aside")]

    async def _take_once(self, stream: str, consumer: str, most: int) -> list[Delivery]:
        """What can be had now. Entries that were delivered too often are set aside, and others looked for in their place."""
        while True:
            rows = await self._on_group(self._take, stream, [consumer, self._lease_ms, most])
            deliveries = _deliveries(stream, rows)
            overdue = [delivery for delivery in deliveries if delivery.attempt > self._max_deliveries]
            for delivery in overdue:
                reason = overdue_reason(stream, self._max_deliveries)
                await self.dead_letter(delivery, reason=reason)
                log.warning("dead_letter", stream=stream, key=delivery.key, reason=reason)
            usable = [delivery for delivery in deliveries if delivery.attempt <= self._max_deliveries]
            if usable or not overdue:
                return usable

    async def _held_once(self, stream: str, consumer: str, most: int, wait_s: float) -> list[Delivery]:
        place = (stream, consumer)
        if place in self._unsure:
            # An answer got lost: Redis may have lent entries that nobody saw. They are newer than all that were seen.
            rows = await self._read_held(stream, consumer, self._last_held.get(place, "0-0"), most)
            if rows:
                self._last_held[place] = rows[-1][0].decode()
                return _deliveries(stream, rows)
            self._unsure.discard(place)
        self._unsure.add(place)
        deliveries = await self._read_new(stream, consumer, most, wait_s)
        self._unsure.discard(place)
        if deliveries:
            self._last_held[place] = deliveries[-1].entry
        return deliveries

    async def _read_new(self, stream: str, consumer: str, most: int, wait_s: float) -> list[Delivery]:
        """New entries; waits for at most `wait_s` and LONGEST_BLOCK_S, which stays below the socket timeout."""
        check_stream(stream)
        block_ms = max(1, round(min(wait_s, LONGEST_BLOCK_S) * 1000)) if wait_s > 0 else None
        with self._answering():
            await self._ensure_group(stream)
            found = await self._client.xreadgroup(GROUP, consumer, {self._streams[stream]: ">"}, count=most, block=block_ms)
        return [_delivery(stream, entry, fields) for _, entries in found for entry, fields in entries]

    async def _read_held(self, stream: str, consumer: str, after: str, most: int) -> list[Any]:
        return await self._on_group(self._held, stream, [consumer, after, most])

    async def _on_group(self, script: Any, stream: str, args: list[Any]) -> Any:
        """Run a script that needs the stream's consumer group."""
        check_stream(stream)
        with self._answering():
            await self._ensure_group(stream)
            return await script(keys=[self._streams[stream]], args=[GROUP, *args])

    async def _ensure_group(self, stream: str) -> None:
        if stream in self._grouped:
            return
        try:
            await self._client.xgroup_create(self._streams[stream], GROUP, id="0", mkstream=True)
        except errors.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._grouped.add(stream)

    async def _scan(self, name: str, pattern: str | None = None) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor = 0
        while True:
            with self._answering():
                cursor, page = await self._client.hscan(self._key(name), cursor, match=pattern, count=LEDGER_PAGE)
            for row in page.items():
                yield row
            if cursor == 0:
                return

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what redis-py raises into QueueUnavailableError with the address, the cause and the remedy."""
        try:
            yield
        except (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError) as error:
            raise QueueUnavailableError(
                f"Redis at {self._address} refuses the password ({error}): put the right one into queue.password_file"
            ) from error
        except (errors.ConnectionError, errors.TimeoutError, OSError) as error:
            raise QueueUnavailableError(
                f"Redis at {self._address} does not answer ({error}): check that it runs and that queue.url names it; "
                "workers wait and connect again by themselves"
            ) from error
        except errors.ResponseError as error:
            explained = self._explained(str(error))
            if explained is None:
                raise
            raise explained from error

    def _explained(self, cause: str) -> QueueUnavailableError | None:
        if any(sign in cause for sign in _FULL):
            return QueueUnavailableError(
                f"Redis at {self._address} cannot store more ({cause}): give it more memory (maxmemory) or disk; nothing was changed, "
                "and work goes on once there is room"
            )
        if any(sign in cause for sign in _READ_ONLY):
            return QueueUnavailableError(f"Redis at {self._address} takes no writes now ({cause}): queue.url must name the primary")
        if "NOGROUP" in cause:
            self._grouped.clear()
            return QueueUnavailableError(
                f"Redis at {self._address} lost its streams ({cause}): it was emptied while the run went on; "
                "keep appendonly on, and use oprime resume to put the work back"
            )
        if "nknown command" in cause or "nknown Redis command" in cause:
            return QueueUnavailableError(f"Redis at {self._address} is too old ({cause}): oprime needs Redis 6.2, Valkey 7.2 or newer")
        return None


def _counted(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The rows one after another, led by their number."""
    listed = list(rows)
    return [len(listed), *(value for row in listed for value in row)]


def _deliveries(stream: str, rows: Iterable[list[Any]]) -> list[Delivery]:
    """Rows {entry, key, payload, deliveries}; those of deleted entries have an id alone."""
    return [
        Delivery(stream=stream, entry=row[0].decode(), key=row[1].decode(), payload=row[2], attempt=row[3]) for row in rows if len(row) > 1
    ]


def _delivery(stream: str, entry: bytes, fields: Mapping[bytes, bytes]) -> Delivery:
    return Delivery(stream=stream, entry=entry.decode(), key=fields[b"k"].decode(), payload=fields[b"p"], attempt=1)


def _letter(entry: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        entry=entry.decode(),
        stream=fields[b"s"].decode(),
        key=fields[b"k"].decode(),
        payload=fields[b"p"],
        reason=fields[b"r"].decode(),
        rollout_ids=tuple(part for part in fields[b"i"].decode().split("\n") if part),
    )


def _by_stream(deliveries: Sequence[Delivery]) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for delivery in deliveries:
        check_stream(delivery.stream)
        entries.setdefault(delivery.stream, []).append(delivery.entry)
    return entries
