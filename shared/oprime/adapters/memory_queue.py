"""The queue in one process, for simulations and tests. Same contract as the Redis queue; time comes from a Clock."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from oprime.adapters.queue_rules import (
    NOBODY,
    RolloutIdsOf,
    check_most,
    check_moves,
    check_outputs,
    check_stream,
    count_key,
    counts_of,
    dead_state,
    fenced,
    overdue_reason,
    refused,
    rollouts_of,
    shown_counts,
)
from oprime.ports import DEAD, LIVE, STREAMS, Clock, Committed, DeadLetter, Delivery, Fence, LedgerMove, Output, QueueDepth, Snapshot
from oprime.wire.rollout_ids import rollout_ids


@dataclass(slots=True)
class _Entry:
    key: str
    payload: bytes
    since: float
    holder: str = ""
    """Empty while the entry waits."""
    lent_at: float = 0.0
    deliveries: int = 0


@dataclass(slots=True)
class _Stream:
    entries: dict[str, _Entry] = field(default_factory=dict[str, _Entry])
    """In the order of arrival."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryQueue:
    """The Queue port without a server. Belongs to one event loop; every method is atomic because none waits half-way."""

    def __init__(self, clock: Clock, *, lease_s: float = 30.0, max_deliveries: int = 3, rollout_ids_of: RolloutIdsOf = rollout_ids) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._max_deliveries = max_deliveries
        self._rollout_ids_of = rollout_ids_of
        self._streams = {name: _Stream() for name in STREAMS}
        self._letters: dict[str, DeadLetter] = {}
        self._letter_payloads: dict[str, bytes] = {}
        self._set_aside: dict[tuple[str, str], str] = {}
        """(stream, entry) -> letter."""
        self.marks: set[str] = set()
        """Marks that were not forgotten."""
        self._ledger: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._values: dict[str, bytes] = {}
        self._notices: dict[str, bytes] = {}
        self._passing: dict[str, tuple[bytes, float]] = {}
        """Values that expire, with the time at which they do."""
        self._turns: dict[str, tuple[str, float]] = {}
        """Name -> owner and the time at which its turn ends."""
        self._tokens: dict[str, tuple[str, int]] = {}
        """Name -> last owner and its token."""
        self._next_id = 1

    async def commit(
        self,
        mark: str,
        *,
        outputs: Sequence[Output] = (),
        moves: Sequence[LedgerMove] = (),
        values: Mapping[str, bytes | None] | None = None,
        consumed: Sequence[Delivery] = (),
        forget: Sequence[str] = (),
        fence: Fence | None = None,
    ) -> Committed:
        check_outputs(outputs)
        check_moves(moves)
        self._check_fence(fence, mark)
        is_new = mark not in self.marks
        if is_new:
            if any((delivery.stream, delivery.entry) in self._set_aside for delivery in consumed):
                return refused(mark)
            self.marks.add(mark)
            for output in outputs:
                self._append(output.stream, output.key, output.payload)
            for move in moves:
                self._move(move.rollout_id, move.state)
            for name, value in (values or {}).items():
                self._values.pop(name, None)
                if value is not None:
                    self._values[name] = value
            self.marks.difference_update(forget)
        await self.acknowledge(consumed)
        return Committed.NEW if is_new else Committed.KNOWN

    def _check_fence(self, fence: Fence | None, mark: str) -> None:
        if fence is not None and self._tokens.get(fence.name, ("", 0))[1] != fence.token:
            raise fenced(fence, mark)

    async def receive(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        check_most(most)
        ends = self._clock.now() + wait_s
        while True:
            deliveries = self._take_overdue(stream, consumer, most)
            deliveries += self._take_new(stream, consumer, most - len(deliveries))
            left_s = ends - self._clock.now()
            if deliveries or left_s <= 0:
                return deliveries
            await self._wait(stream, min(left_s, self._next_overdue_s(stream)))

    async def receive_again(self, stream: str, consumer: str) -> list[Delivery]:
        held = [(name, entry) for name, entry in self._stream(stream).entries.items() if entry.holder == consumer]
        return [self._lend(stream, name, entry, consumer) for name, entry in held]

    async def receive_held(self, stream: str, consumer: str, *, most: int = 1, wait_s: float) -> list[Delivery]:
        check_most(most)
        ends = self._clock.now() + wait_s
        while True:
            deliveries = self._take_new(stream, consumer, most)
            left_s = ends - self._clock.now()
            if deliveries or left_s <= 0:
                return deliveries
            await self._wait(stream, left_s)

    async def renew(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        for delivery in deliveries:
            entry = self._stream(delivery.stream).entries.get(delivery.entry)
            if entry is not None and entry.holder == consumer:
                entry.lent_at = self._clock.now()

    async def give_back(self, deliveries: Sequence[Delivery], consumer: str) -> None:
        for delivery in deliveries:
            entry = self._stream(delivery.stream).entries.get(delivery.entry)
            if entry is not None and entry.holder == consumer:
                entry.holder = NOBODY
                entry.lent_at = float("-inf")
                entry.deliveries -= 1
                self._stream(delivery.stream).changed.set()

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._stream(delivery.stream).entries.pop(delivery.entry, None)

    async def dead_letter(self, delivery: Delivery, *, reason: str, rollout_ids: Sequence[str] = ()) -> None:
        """Without `rollout_ids`, they are read from the payload. Does nothing to an entry that another worker finished."""
        self._bury(delivery, reason, tuple(rollout_ids or rollouts_of(delivery, self._rollout_ids_of)))

    async def dead_letters(self, *, after: str = "") -> list[DeadLetter]:
        return [letter for letter in self._letters.values() if not after or _place(letter.entry) > _place(after)]

    async def replay(self, letter: DeadLetter) -> bool:
        found = self._letters.pop(letter.entry, None)
        if found is None:
            return False
        self._set_aside = {place: entry for place, entry in self._set_aside.items() if entry != found.entry}
        self._append(found.stream, found.key, self._letter_payloads.pop(found.entry))
        for rollout_id in found.rollout_ids:
            if self._ledger.get(rollout_id) == dead_state(found.stream):
                self._ledger[rollout_id] = LIVE
                self._add(dead_state(found.stream), -1)
                self._add(LIVE, 1)
        return True

    async def depth(self, stream: str) -> QueueDepth:
        entries = self._stream(stream).entries.values()
        pending = sum(1 for entry in entries if entry.holder)
        oldest = min((entry.since for entry in entries), default=self._clock.now())
        return QueueDepth(stream=stream, waiting=len(entries) - pending, pending=pending, oldest_s=self._clock.now() - oldest)

    async def entries(self, stream: str) -> AsyncIterator[bytes]:
        found = self._letter_payloads.values() if stream == DEAD else [entry.payload for entry in self._stream(stream).entries.values()]
        for payload in list(found):
            yield payload

    async def ledger_counts(self) -> dict[str, int]:
        return shown_counts(self._counts)

    async def ledger_entries(self) -> AsyncIterator[tuple[str, str]]:
        for row in list(self._ledger.items()):
            yield row

    async def ledger_states(self, rollout_ids: Sequence[str]) -> dict[str, str]:
        return {rollout_id: self._ledger[rollout_id] for rollout_id in rollout_ids if rollout_id in self._ledger}

    async def snapshot(self) -> Snapshot:
        return Snapshot(ledger=dict(self._ledger), values=dict(self._values))

    async def restore_ledger(self, entries: Mapping[str, str], *, fence: Fence | None = None) -> None:
        counts = counts_of(entries.values())
        self._check_fence(fence, "restore")
        self._ledger, self._counts = dict(entries), counts

    async def set_value(self, name: str, value: bytes, *, expires_s: float | None = None) -> None:
        if expires_s is None:
            self._values[name] = value
        else:
            self._passing[name] = (value, self._clock.now() + expires_s)

    async def value(self, name: str) -> bytes | None:
        return self._present_values().get(name)

    async def values(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in self._present_values().items() if name.startswith(prefix)}

    async def put_notice(self, name: str, value: bytes) -> None:
        self._notices[name] = value

    async def notice(self, name: str) -> bytes | None:
        return self._notices.get(name)

    def _present_values(self) -> dict[str, bytes]:
        now = self._clock.now()
        self._passing = {name: (value, ends) for name, (value, ends) in self._passing.items() if ends > now}
        return {name: value for name, (value, _) in self._passing.items()} | self._values

    async def take_turn(self, name: str, owner: str, *, seconds: float) -> int:
        holder, ends = self._turns.get(name, ("", 0.0))
        if holder and holder != owner and self._clock.now() < ends:
            return 0
        self._turns[name] = (owner, self._clock.now() + seconds)
        last_owner, token = self._tokens.get(name, ("", 0))
        if last_owner != owner:
            token += 1
        self._tokens[name] = (owner, token)
        return token

    async def end_turn(self, name: str, owner: str) -> None:
        if self._turns.get(name, ("", 0.0))[0] == owner:
            del self._turns[name]

    async def ping(self) -> None:
        """Always answers."""

    async def check_server(self) -> None:
        """Loses nothing by itself."""

    async def close(self) -> None:
        """Nothing to let go of; the entries stay."""

    def _stream(self, stream: str) -> _Stream:
        check_stream(stream)
        return self._streams[stream]

    def _new_id(self) -> str:
        name = f"{self._next_id}-0"
        self._next_id += 1
        return name

    def _append(self, stream: str, key: str, payload: bytes) -> None:
        self._stream(stream).entries[self._new_id()] = _Entry(key, payload, self._clock.now())
        self._stream(stream).changed.set()

    def _add(self, state: str, amount: int) -> None:
        self._counts[state] = self._counts.get(state, 0) + amount

    def _move(self, rollout_id: str, state: str) -> None:
        current = self._ledger.get(rollout_id)
        if state == LIVE and current is None:
            self._add("issued", 1)
            self._add(LIVE, 1)
        elif state != LIVE and current == LIVE:
            self._add(LIVE, -1)
            self._add(count_key(state), 1)
        else:
            return
        self._ledger[rollout_id] = state

    def _lend(self, stream: str, name: str, entry: _Entry, consumer: str) -> Delivery:
        entry.holder = consumer
        entry.lent_at = self._clock.now()
        entry.deliveries += 1
        return Delivery(stream=stream, entry=name, key=entry.key, payload=entry.payload, attempt=entry.deliveries)

    def _take_new(self, stream: str, consumer: str, most: int) -> list[Delivery]:
        waiting = ((name, entry) for name, entry in self._stream(stream).entries.items() if not entry.holder)
        return [self._lend(stream, name, entry, consumer) for name, entry in list(islice(waiting, most))]

    def _take_overdue(self, stream: str, consumer: str, most: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        now = self._clock.now()
        overdue = [(name, entry) for name, entry in self._stream(stream).entries.items() if entry.holder and self._ends(entry) <= now]
        for name, entry in overdue:
            if len(deliveries) == most:
                break
            delivery = self._lend(stream, name, entry, consumer)
            if delivery.attempt <= self._max_deliveries:
                deliveries.append(delivery)
                continue
            self._bury(delivery, overdue_reason(delivery, self._max_deliveries), rollouts_of(delivery, self._rollout_ids_of))
        return deliveries

    def _bury(self, delivery: Delivery, reason: str, rollout_ids: tuple[str, ...]) -> None:
        entry = self._stream(delivery.stream).entries.pop(delivery.entry, None)
        if entry is None:
            return
        letter = DeadLetter(
            entry=self._new_id(),
            stream=delivery.stream,
            key=entry.key,
            payload_bytes=len(entry.payload),
            reason=reason,
            rollout_ids=rollout_ids,
        )
        self._letters[letter.entry] = letter
        self._letter_payloads[letter.entry] = entry.payload
        self._set_aside[delivery.stream, delivery.entry] = letter.entry
        for rollout_id in rollout_ids:
            self._move(rollout_id, dead_state(delivery.stream))

    def _ends(self, entry: _Entry) -> float:
        return entry.lent_at + self._lease_s

    def _next_overdue_s(self, stream: str) -> float:
        """Seconds until the next lease runs out."""
        ends = (self._ends(entry) for entry in self._stream(stream).entries.values() if entry.holder)
        return max(0.0, min(ends, default=float("inf")) - self._clock.now())

    async def _wait(self, stream: str, seconds: float) -> None:
        """Until an entry arrives or the time is up."""
        changed = self._stream(stream).changed
        changed.clear()
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _place(entry: str) -> int:
    return int(entry.partition("-")[0])
