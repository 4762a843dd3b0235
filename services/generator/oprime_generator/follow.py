"""Moves the sampler to newer weight versions as the learner publishes them, without stopping it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from oprime.ports import Clock, Metrics, Queue, WeightStore, WeightVersion
from oprime.runtime.errors import OprimeError, QueueUnavailableError, UnusableInputError, WeightsRefusedError, WeightVersionMissingError
from oprime_generator.sampler import Sampler, SamplerDiedError

log = structlog.get_logger()

TURN = "follow"
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


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
        activated: Callable[[int], None],
    ) -> None:
        """`turn_s` bounds how long a dead replica keeps the others from following; `activated` hears of each new version."""
        self._store = store
        self._sampler = sampler
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._generator_id = generator_id
        self._poll_s = poll_s
        self._turn_s = turn_s
        self._activated = activated
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
        while True:
            await self.follow()
            await self._clock.sleep(self._poll_s)

    async def wait_for(self, version: int) -> None:
        """Wait until the weights that sample are at least `version`."""
        while self._sampler.weight_version < version:
            await self._changed.wait()

    async def follow(self) -> bool:
        """Move to the newest version that can be loaded; returns whether the sampler moved."""
        for version in await self._newer():
            refusal = self._refusals.get(version)
            if refusal is not None and self._clock.now() < refusal.retry_at:
                continue
            try:
                prepared = await self.prepare(version)
                await self._activate_in_turn(prepared)
            except WeightVersionMissingError:
                continue  # removed between the look and the fetch
            except SamplerDiedError:
                raise
            except OprimeError as error:
                self._refuse(version, str(error))
                continue
            return True
        return False

    async def prepare(self, version: int) -> WeightVersion:
        """Fetch and check a version in a thread. Raises WeightsRefusedError."""
        started = time.monotonic()
        prepared = await asyncio.to_thread(self._store.fetch, version)
        self._metrics.observe("weight_follow_seconds", time.monotonic() - started, phase="prepare")
        return prepared

    async def activate(self, prepared: WeightVersion) -> None:
        """Switch the sampler; a version that serves already changes nothing.

        Raises UnusableInputError for an older version and WeightsRefusedError for one that does not fit the model.
        """
        async with self._activating:
            current = self._sampler.weight_version
            if prepared.version < current:
                raise UnusableInputError(
                    f"weight version {prepared.version} is older than {current}, which samples now: versions only grow"
                )
            if prepared.version == current:
                return
            started = time.monotonic()
            await self._sampler.load(prepared.directory, prepared.version)
            seconds = time.monotonic() - started
        self._refusals = {version: refusal for version, refusal in self._refusals.items() if version > prepared.version}
        self._metrics.observe("weight_follow_seconds", seconds, phase="activate")
        self._metrics.gauge("policy_version", prepared.version)
        log.info("weights_followed", weight_version=prepared.version, previous=current, seconds=round(seconds, 4))
        self._activated(prepared.version)
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

    async def _activate_in_turn(self, prepared: WeightVersion) -> None:
        while not await self._take_turn():
            await self._clock.sleep(self._poll_s)
        try:
            if prepared.version > self._sampler.weight_version:
                await self.activate(prepared)
        finally:
            try:
                await self._queue.end_turn(TURN, self._generator_id)
            except QueueUnavailableError as error:
                log.warning("queue_unavailable", error=str(error))

    async def _take_turn(self) -> bool:
        try:
            return await self._queue.take_turn(TURN, self._generator_id, seconds=self._turn_s)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
            await self._clock.sleep(_FIRST_RETRY_S)
            return False

    def _refuse(self, version: int, reason: str) -> None:
        """Keep the old weights, say so once, and look again now and then: a slow file system may still deliver the rest."""
        known = self._refusals.get(version)
        if known is None:
            log.error("weights_refused", weight_version=version, serving=self._sampler.weight_version, reason=reason)
            self._metrics.count("weights_refused_total")
        delay = min(known.delay_s * 2, _LAST_RETRY_S) if known else _FIRST_RETRY_S
        self._refusals[version] = _Refusal(reason, self._clock.now() + delay, delay)
