"""The queue on Redis 6.2 or newer, or Valkey: commits, the ledger, values and turns; its streams are in `redis_streams`."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self
from uuid import uuid4

from redis import asyncio as aio

from oprime.adapters import redis_scripts as scripts
from oprime.adapters.queue_rules import RolloutIdsOf, check_moves, check_outputs, counts_of, fenced, refused, shown_counts
from oprime.adapters.redis_connection import escaped, open_client
from oprime.adapters.redis_streams import GROUP, RedisStreams
from oprime.ports import Committed, Delivery, Fence, LedgerMove, Output, Snapshot
from oprime.runtime.settings import QueueSection, TlsSection
from oprime.wire.rollout_ids import rollout_ids

LEDGER_PAGE = 1000
SNAPSHOT_LIVES_MS = 600_000
"""A copy of the ledger that a dead process left behind goes by itself."""

# Answers of scripts.
_REFUSED, _FENCED = -1, -2


class RedisQueue(RedisStreams):
    """The Queue port. Make one with `connect`."""

    @classmethod
    def of_run(cls, section: QueueSection, run: str) -> Self:
        """The queue that a run's settings name."""
        return cls.connect(
            section.url,
            run=run,
            password=section.password,
            username=section.username,
            tls=section.tls,
            lease_s=section.lease_s,
            max_deliveries=section.max_deliveries,
        )

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        run: str,
        password: str | None = None,
        username: str = "",
        tls: TlsSection | None = None,
        lease_s: float = 30.0,
        max_deliveries: int = 3,
        rollout_ids_of: RolloutIdsOf = rollout_ids,
    ) -> Self:
        """Make a queue for a run. Opens no connection yet: `ping` says whether Redis answers. SettingsError for an unusable address."""
        client = open_client(aio.Redis, url, password, username, tls)
        return cls(client, run=run, lease_s=lease_s, max_deliveries=max_deliveries, rollout_ids_of=rollout_ids_of)

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
        """As the port says, in one script."""
        check_outputs(outputs)
        check_moves(moves)
        # A user of the server may have the right to no more than this commit touches: what it has no use for is not named.
        used = ("marks", "ledger", "counts", "values" if values else "marks", "set_aside", "tokens" if fence else "marks")
        keys = [self._key(name) for name in used]
        streams = sorted({entry.stream for entry in (*outputs, *consumed)})
        index = {name: len(keys) + 1 + place for place, name in enumerate(streams)}
        keys += [self._streams[name] for name in streams]
        args: list[Any] = [GROUP, mark, *_fence_args(fence)]
        args += _counted((index[output.stream], output.key, output.payload) for output in outputs)
        args += _counted((move.rollout_id, move.state) for move in moves)
        args += _counted((name, value) for name, value in (values or {}).items() if value is not None)
        args += _counted((name,) for name, value in (values or {}).items() if value is None)
        args += _counted((name,) for name in forget)
        args += _counted((index[delivery.stream], delivery.stream, delivery.entry) for delivery in consumed)
        verdict = await self._run(scripts.COMMIT, keys=keys, args=args)
        if verdict == _FENCED:
            raise fenced(fence, mark)
        return refused(mark) if verdict == _REFUSED else Committed.NEW if verdict else Committed.KNOWN

    async def ledger_counts(self) -> dict[str, int]:
        with self._answering():
            counts = await self._client.hgetall(self._key("counts"))
        return shown_counts({state.decode(): int(number) for state, number in counts.items()})

    async def ledger_entries(self) -> AsyncIterator[tuple[str, str]]:
        # A scan may show an entry twice while the hash grows.
        seen: set[bytes] = set()
        async for rollout_id, state in self._scan("ledger"):
            if rollout_id not in seen:
                seen.add(rollout_id)
                yield rollout_id.decode(), state.decode()

    async def ledger_states(self, rollout_ids: Sequence[str]) -> dict[str, str]:
        if not rollout_ids:
            return {}
        with self._answering():
            states = await self._client.hmget(self._key("ledger"), rollout_ids)
        return {rollout_id: state.decode() for rollout_id, state in zip(rollout_ids, states, strict=True) if state is not None}

    async def snapshot(self) -> Snapshot:
        """Redis copies the ledger in one step, and the copy is read in pages."""
        copy = f"ledger-copy-{uuid4().hex}"
        flat = await self._run(scripts.SNAPSHOT, keys=[self._key("ledger"), self._key("values"), self._key(copy)], args=[SNAPSHOT_LIVES_MS])
        ledger = {rollout_id.decode(): state.decode() async for rollout_id, state in self._scan(copy)}
        with self._answering():
            await self._client.unlink(self._key(copy))
        return Snapshot(ledger=ledger, values={name.decode(): value for name, value in _pairs(flat)})

    async def restore_ledger(self, entries: Mapping[str, str], *, fence: Fence | None = None) -> None:
        counts = counts_of(entries.values())
        rows = list(entries.items())
        written = self._key(f"ledger-new-{uuid4().hex}")
        with self._answering():
            for first in range(0, len(rows), LEDGER_PAGE):
                await self._client.hset(written, mapping=dict(rows[first : first + LEDGER_PAGE]))
        keys = [self._key("ledger"), self._key("counts"), self._key("tokens"), written]
        args = [*_fence_args(fence), *(value for row in counts.items() for value in row)]
        verdict = await self._run(scripts.RESTORE_LEDGER, keys=keys, args=args)
        if verdict == _FENCED:
            raise fenced(fence, "restore")

    async def set_value(self, name: str, value: bytes, *, expires_s: float | None = None) -> None:
        if expires_s is not None:
            await self._run(scripts.SET_PASSING, keys=[self._key("passing")], args=[name, value, max(1, round(expires_s * 1000))])
            return
        with self._answering():
            await self._client.hset(self._key("values"), name, value)

    async def value(self, name: str) -> bytes | None:
        with self._answering():
            lasting = await self._client.hget(self._key("values"), name)
        return lasting if lasting is not None else (await self._values_that_pass(name)).get(name)

    async def values(self, prefix: str) -> dict[str, bytes]:
        lasting = {name.decode(): value async for name, value in self._scan("values", escaped(prefix) + "*")}
        return lasting | await self._values_that_pass(prefix)

    async def put_notice(self, name: str, value: bytes) -> None:
        with self._answering():
            await self._client.hset(self._key("notices"), name, value)

    async def notice(self, name: str) -> bytes | None:
        with self._answering():
            return await self._client.hget(self._key("notices"), name)

    async def _values_that_pass(self, prefix: str) -> dict[str, bytes]:
        flat = await self._run(scripts.PASSING, keys=[self._key("passing")], args=[prefix])
        return {name.decode(): value for name, value in _pairs(flat)}

    async def take_turn(self, name: str, owner: str, *, seconds: float) -> int:
        keys = [self._key(f"turn:{name}"), self._key("tokens")]
        return int(await self._run(scripts.TAKE_TURN, keys=keys, args=[owner, max(1, round(seconds * 1000)), name]))

    async def end_turn(self, name: str, owner: str) -> None:
        await self._run(scripts.END_TURN, keys=[self._key(f"turn:{name}")], args=[owner])

    async def _scan(self, name: str, pattern: str | None = None) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor = 0
        while True:
            with self._answering():
                cursor, page = await self._client.hscan(self._key(name), cursor, match=pattern, count=LEDGER_PAGE)
            for row in page.items():
                yield row
            if cursor == 0:
                return


def _counted(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The rows one after another, led by their number."""
    listed = list(rows)
    return [len(listed), *(value for row in listed for value in row)]


def _fence_args(fence: Fence | None) -> list[Any]:
    return ["", 0] if fence is None else [fence.name, fence.token]


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """(name, value) of a list that has them in turn."""
    return zip(flat[::2], flat[1::2], strict=True)
