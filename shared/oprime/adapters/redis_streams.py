"""The streams of the Redis queue: entries, their leases, and dead letters."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from redis import asyncio as aio
from redis import exceptions as errors

from oprime.adapters import redis_scripts as scripts
from oprime.adapters.queue_rules import NOBODY, RolloutIdsOf, check_most, check_stream, overdue_reason, rollouts_of
from oprime.adapters.redis_connection import RedisPart, key_prefix
from oprime.ports import DEAD, STREAMS, DeadLetter, Delivery, QueueDepth

GROUP = "workers"
LONGEST_BLOCK_S = 2.0
PAGE = 16
LETTER_PAGE = 256


def stream_key(run: str, stream: str) -> str:
    """Where a run's stream is; what scales its consumers asks there too."""
    return f"{key_prefix(run)}stream:{stream}"


class RedisStreams(RedisPart):
    """The Streams part of the queue."""

    def __init__(self, client: aio.Redis, *, run: str, lease_s: float, max_deliveries: int, rollout_ids_of: RolloutIdsOf) -> None:
        super().__init__(client, run)
        self._lease_s = lease_s
        self._lease_ms = max(1, round(lease_s * 1000))
        self._max_deliveries = max_deliveries
        self._rollout_ids_of = rollout_ids_of
        self._streams = {name: stream_key(run, name) for name in (*STREAMS, DEAD)}
        self._grouped: set[str] = set()
        self._answering.on_loss = self._grouped.clear
        self._last_held: dict[tuple[str, str], str] = {}
        self._unsure: set[tuple[str, str]] = set()

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
            await self._on_group(scripts.RENEW, stream, [consumer, *entries])

    async def give_back(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        for stream, entries in _by_stream(deliveries).items():
            await self._on_group(scripts.GIVE_BACK, stream, [consumer, NOBODY, *entries])

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
        args = [GROUP, delivery.entry, delivery.stream, reason, *ids]
        await self._run(scripts.DEAD_LETTER, keys=self._letter_keys(delivery.stream), args=args)

    async def dead_letters(self, *, after: str = "") -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        while True:
            rows = await self._run(scripts.LETTERS, keys=[self._streams[DEAD]], args=[after, LETTER_PAGE])
            letters += [_letter(row) for row in rows]
            if len(rows) < LETTER_PAGE:
                return letters
            after = letters[-1].entry

    async def replay(self, letter: DeadLetter) -> bool:
        check_stream(letter.stream)
        return bool(await self._run(scripts.REPLAY, keys=self._letter_keys(letter.stream), args=[letter.entry]))

    async def depth(self, stream: str) -> QueueDepth:
        entries, pending, age_ms = await self._on_group(scripts.DEPTH, stream, [])
        return QueueDepth(stream=stream, waiting=max(0, entries - pending), pending=pending, oldest_s=age_ms / 1000)

    async def entries(self, stream: str) -> AsyncIterator[bytes]:
        if stream != DEAD:
            check_stream(stream)
        after = "-"
        while True:
            with self._answering():
                rows = await self._client.xrange(self._streams[stream], min=after, count=PAGE)
            for _, fields in rows:
                yield fields[b"p"]
            if len(rows) < PAGE:
                return
            after = f"({rows[-1][0].decode()}"

    def _letter_keys(self, stream: str) -> list[str]:
        return [self._streams[stream], self._streams[DEAD], self._key("ledger"), self._key("counts"), self._key("set_aside")]

    async def _take_once(self, stream: str, consumer: str, most: int) -> list[Delivery]:
        """What can be had now. Entries that were delivered too often are set aside, and others looked for in their place."""
        while True:
            rows = await self._on_group(scripts.TAKE, stream, [consumer, self._lease_ms, most])
            deliveries = _deliveries(stream, rows)
            overdue = [delivery for delivery in deliveries if delivery.attempt > self._max_deliveries]
            for delivery in overdue:
                await self.dead_letter(delivery, reason=overdue_reason(delivery, self._max_deliveries))
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
        return await self._on_group(scripts.HELD, stream, [consumer, after, most])

    async def _on_group(self, script: str, stream: str, args: list[Any]) -> Any:
        """Run a script that needs the stream's consumer group."""
        check_stream(stream)
        with self._answering():
            await self._ensure_group(stream)
        return await self._run(script, keys=[self._streams[stream]], args=[GROUP, *args])

    async def _ensure_group(self, stream: str) -> None:
        if stream in self._grouped:
            return
        try:
            await self._client.xgroup_create(self._streams[stream], GROUP, id="0", mkstream=True)
        except errors.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._grouped.add(stream)


def _deliveries(stream: str, rows: Iterable[list[Any]]) -> list[Delivery]:
    """Rows {entry, key, payload, deliveries}; those of deleted entries have an id alone."""
    return [
        Delivery(stream=stream, entry=row[0].decode(), key=row[1].decode(), payload=row[2], attempt=row[3]) for row in rows if len(row) > 1
    ]


def _delivery(stream: str, entry: bytes, fields: Mapping[bytes, bytes]) -> Delivery:
    return Delivery(stream=stream, entry=entry.decode(), key=fields[b"k"].decode(), payload=fields[b"p"], attempt=1)


def _letter(row: Sequence[Any]) -> DeadLetter:
    entry, stream, key, payload_bytes, reason, ids = row
    return DeadLetter(
        entry=entry.decode(),
        stream=stream.decode(),
        key=key.decode(),
        payload_bytes=payload_bytes,
        reason=reason.decode(),
        rollout_ids=tuple(part for part in ids.decode().split("\n") if part),
    )


def _by_stream(deliveries: Sequence[Delivery]) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for delivery in deliveries:
        check_stream(delivery.stream)
        entries.setdefault(delivery.stream, []).append(delivery.entry)
    return entries
