"""What verifiers need of tasks, fetched once for all siblings of a group."""

import asyncio
from collections import OrderedDict

from oprime.core.verification import VerificationRequest
from oprime.ports import Payloads
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.rollout_payloads import request_of

KEPT_BYTES = 256 * 1024 * 1024
"""Material of the newest tasks stays, as long as it is no more than this together."""


class Materials:
    def __init__(self, payloads: Payloads, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._payloads = payloads
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, tuple[VerificationRequest, int]] = OrderedDict()
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
        (payload,) = await asyncio.to_thread(self._payloads.get_many, [name])
        if payload is None:
            raise UnusableInputError(f"payload {name} (what the verifier needs of a task) is gone from the store")
        request = request_of(payload, name=name)
        self._kept[name] = (request, len(payload))
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)
        return request
