"""What verifiers need of tasks, fetched once for all siblings of a group; and payloads that are asked for together, read together."""

import asyncio
from collections import OrderedDict

from oprime.core.verification import VerificationRequest
from oprime.ports import Payloads
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.rollout_payloads import request_of

KEPT_BYTES = 256 * 1024 * 1024
"""Material of the newest tasks stays, as long as it is no more than this together."""


class PayloadReads:
    """Reads of one moment in one call to the store, since a call costs more than most payloads."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self._names: list[str] = []
        self._next: asyncio.Task[dict[str, bytes | None]] | None = None

    async def read(self, name: str) -> bytes | None:
        """None for a payload that is gone. Raises what the store raises."""
        self._names.append(name)
        reading = self._next = self._next or asyncio.create_task(self._read_named())
        # Shielded: when one who asked is stopped, the others still get theirs.
        return (await asyncio.shield(reading))[name]

    async def _read_named(self) -> dict[str, bytes | None]:
        await asyncio.sleep(0)
        names, self._names, self._next = list(dict.fromkeys(self._names)), [], None
        return dict(zip(names, await asyncio.to_thread(self._payloads.get_many, names), strict=True))


class Materials:
    def __init__(self, reads: PayloadReads, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._reads = reads
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, tuple[VerificationRequest, int]] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[str, asyncio.Task[VerificationRequest]] = {}

    async def read(self, name: str) -> VerificationRequest:
        """The request, whose response is empty. Raises UnusableInputError for one that is gone or unreadable."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name][0]
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.create_task(self._fetch(name))
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        # Shielded: when one sibling's judge is stopped, the others still get it.
        return await asyncio.shield(task)

    async def _fetch(self, name: str) -> VerificationRequest:
        payload = await self._reads.read(name)
        if payload is None:
            raise UnusableInputError(f"payload {name} (what the verifier needs of a task) is gone from the store")
        request = request_of(payload, name=name)
        self._kept[name] = (request, len(payload))
        self._bytes += len(payload)
        while len(self._kept) > 1 and self._bytes > self._kept_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return request
