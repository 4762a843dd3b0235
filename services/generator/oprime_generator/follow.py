"""Moves the sampler to newer weight versions as the learner publishes them, without stopping it.

A version is fetched and checked while sampling goes on; only the switch pauses it. So that the replicas of a run never pause all at once,
one that samples takes a turn for its switch, of which there are `generator.follow_at_once`, and keeps it until it has switched. One that
has nothing to sample pauses nothing and needs none: whoever has fallen so far behind that it may not take tickets is free to catch up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from oprime.ports import Clock, Metrics, Queue, WeightStore, WeightVersion
from oprime.runtime.errors import OprimeError, QueueUnavailableError, UnusableInputError, WeightsRefusedError, WeightVersionMissingError
from oprime.runtime.weight_transfer import ANNOUNCE_EVERY_S, Transfer, announce, offered
from oprime_generator.sampler import Sampler, SamplerDiedError

log = structlog.get_logger()

TURN = "follow/{}"
"""Names of the turns, by number."""
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


AWAIT_OFFER_S = 5.0
"""How long a version that the store has is expected to be offered, too, where versions are."""


class Receiver(Protocol):
    """What takes weights straight from the learner."""

    async def receive(self, transfer: Transfer, generator_id: str) -> None:
        """Take part in a transfer, and move to its version. Raises SamplerDiedError when the engine is then at no version."""
        ...


@dataclass(slots=True)
class _Refusal:
    reason: str
    retry_at: float
    delay_s: float


class WeightFollower:
    """Looks for newer versions, fetches and checks them while sampling goes on, and activates them in turn with other replicas."""

    def __init__(
        self,
        store: WeightStore,
        sampler: Sampler,
        queue: Queue,
        clock: Clock,
        metrics: Metrics,
        *,
        generator_id: str,
        poll_s: float,
        turn_s: float,
        at_once: int,
        is_sampling: Callable[[], bool],
        activated: Callable[[int], None],
        receiver: Receiver | None = None,
        workers: int = 1,
        elsewhere: Callable[[int], Awaitable[object]] | None = None,
    ) -> None:
        """`turn_s` bounds how long a dead replica keeps a turn from the others, of which `at_once` may switch at a time; `activated`
        hears of each new version. With a `receiver`, whose engine has so many `workers`, versions are taken from the learner first.
        `elsewhere` fetches a version on the other hosts of this generator."""
        self._store = store
        self._sampler = sampler
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._generator_id = generator_id
        self._poll_s = poll_s
        self._turn_s = turn_s
        self._at_once = at_once
        self._is_sampling = is_sampling
        self._activated = activated
        self._receiver = receiver
        self._workers = workers
        self._elsewhere = elsewhere
        self._first_seen: dict[int, float] = {}
        self._announced_at = float("-inf")
        self._refusals: dict[int, _Refusal] = {}
        self._store_error = ""
        self._changed = asyncio.Event()
        self._activating = asyncio.Lock()

    @property
    def error(self) -> str:
        """Why the newest version is not the one that samples; empty while it is."""
        if self._refusals:
            return self._refusals[max(self._refusals)].reason
        return self._store_error

    async def run(self) -> None:
        self._metrics.gauge("policy_version", self._sampler.weight_version)
        self._metrics.count("weights_refused_total", 0)
        while True:
            await self.follow()
            await self._clock.sleep(self._poll_s)

    async def wait_for(self, version: int) -> None:
        """Wait until the weights that sample are at least `version`."""
        while self._sampler.weight_version < version:
            await self._changed.wait()

    async def follow(self) -> bool:
        """Move to the newest version that can be loaded; returns whether the sampler moved."""
        if self._receiver is not None and await self._receive(self._receiver):
            return True
        versions = await self._newer()
        if versions and self._may_be_offered(versions[0]):
            return False
        return await self._follow_store(versions)

    async def _follow_store(self, versions: Sequence[int]) -> bool:
        for version in versions:
            refusal = self._refusals.get(version)
            if refusal is not None and self._clock.now() < refusal.retry_at:
                continue
            try:
                prepared = await self.prepare(version)
                if not await self._activate_in_turn(prepared):
                    return False
            except WeightVersionMissingError:
                continue  # removed between the look and the fetch
            except SamplerDiedError:
                raise
            except OprimeError as error:
                # Unless an Activate call has moved the sampler past it.
                if version > self._sampler.weight_version:
                    self._refuse(version, str(error))
                continue
            return True
        return False

    async def _receive(self, receiver: Receiver) -> bool:
        """Take part in a transfer that is offered."""
        try:
            if self._clock.now() >= self._announced_at + ANNOUNCE_EVERY_S:
                await announce(self._queue, self._generator_id, self._workers)
                self._announced_at = self._clock.now()
            transfer = await offered(self._queue, self._generator_id, above=self._sampler.weight_version)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
            return False
        if transfer is None:
            return False
        await self._switch(transfer.version, receiver.receive(transfer, self._generator_id))
        return True

    def _may_be_offered(self, version: int) -> bool:
        """Whether a version that the store has is likely to come from the learner in a moment."""
        if self._receiver is None:
            return False
        self._first_seen = {seen: at for seen, at in self._first_seen.items() if seen > self._sampler.weight_version}
        return self._clock.now() < self._first_seen.setdefault(version, self._clock.now()) + AWAIT_OFFER_S

    async def prepare(self, version: int) -> WeightVersion:
        """Fetch and check a version in a thread, and on all hosts of this generator. Raises WeightsRefusedError."""
        started = time.monotonic()
        prepared = await asyncio.to_thread(self._store.fetch, version)
        if self._elsewhere is not None:
            await self._elsewhere(version)
        self._metrics.observe("weight_follow_seconds", time.monotonic() - started, phase="prepare")
        return prepared

    async def activate(self, prepared: WeightVersion) -> None:
        """Switch the sampler; a version that serves already changes nothing.

        A caller that is cancelled meanwhile changes nothing either: those who wait for the version hear of it. Raises
        UnusableInputError for an older version and WeightsRefusedError for one that does not fit the model.
        """
        await self._switch(prepared.version, self._sampler.load(prepared.directory, prepared.version))

    async def _switch(self, version: int, switch: Coroutine[Any, Any, None]) -> None:
        """Do `switch`, which moves the sampler to `version`, unless it is there already."""
        async with self._activating:
            current = self._sampler.weight_version
            if version <= current:
                switch.close()
                if version == current:
                    return
                raise UnusableInputError(f"weight version {version} is older than {current}, which samples now: versions only grow")
            started = time.monotonic()
            try:
                await switch
            finally:
                # The sampler ends what it began before a cancellation gets here.
                if self._sampler.weight_version == version:
                    self._note_switch(version, current, time.monotonic() - started)

    def _note_switch(self, version: int, previous: int, seconds: float) -> None:
        self._refusals = {refused: refusal for refused, refusal in self._refusals.items() if refused > version}
        self._metrics.observe("weight_follow_seconds", seconds, phase="activate")
        self._metrics.gauge("policy_version", version)
        log.info("weights_followed", weight_version=version, previous=previous, seconds=round(seconds, 4))
        self._activated(version)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _newer(self) -> list[int]:
        """Versions newer than the sampler's, newest first."""
        try:
            versions = await asyncio.to_thread(self._store.versions)
        except WeightsRefusedError:
            raise
        except OprimeError as error:
            if not self._store_error:
                log.warning("weight_store_unavailable", error=str(error))
            self._store_error = str(error)
            return []
        self._store_error = ""
        return [version for version in reversed(versions) if version > self._sampler.weight_version]

    async def _activate_in_turn(self, prepared: WeightVersion) -> bool:
        """Switch once it is this replica's turn. False if there is a newer version by then: that one is to be fetched first."""
        turn: str | None = None
        while self._is_sampling() and not (turn := await self._take_a_turn()):
            if await self._is_outdated(prepared.version):
                return False
            await self._clock.sleep(self._poll_s)
        keeping = asyncio.create_task(self._keep(turn)) if turn else None
        try:
            if prepared.version > self._sampler.weight_version:
                await self.activate(prepared)
        finally:
            if turn and keeping:
                keeping.cancel()
                await self._end(turn)
        return True

    async def _is_outdated(self, version: int) -> bool:
        return any(newer > version and newer not in self._refusals for newer in await self._newer())

    async def _take_a_turn(self) -> str | None:
        """The name of the turn that is now this replica's, if one is free."""
        for number in range(self._at_once):
            if await self._take(TURN.format(number)):
                return TURN.format(number)
        return None

    async def _keep(self, turn: str) -> None:
        """Loading may take longer than a turn lasts."""
        while True:
            await self._clock.sleep(self._turn_s / 3)
            await self._take(turn)

    async def _take(self, turn: str) -> bool:
        try:
            return await self._queue.take_turn(turn, self._generator_id, seconds=self._turn_s) > 0
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
            await self._clock.sleep(_FIRST_RETRY_S)
            return False

    async def _end(self, turn: str) -> None:
        try:
            await self._queue.end_turn(turn, self._generator_id)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))

    def _refuse(self, version: int, reason: str) -> None:
        """Keep the old weights, say so once, and look again now and then: a slow file system may still deliver the rest."""
        known = self._refusals.get(version)
        if known is None:
            log.error("weights_refused", weight_version=version, serving=self._sampler.weight_version, reason=reason)
            self._metrics.count("weights_refused_total")
        delay = min(known.delay_s * 2, _LAST_RETRY_S) if known else _FIRST_RETRY_S
        self._refusals[version] = _Refusal(reason, self._clock.now() + delay, delay)
