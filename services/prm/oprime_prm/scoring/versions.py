"""The PRM versions of a replica that only scores: the newest, which it follows, and those that requests name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from oprime.lm.frozen import FrozenModel
from oprime.ports import Clock, WeightStore
from oprime.runtime.errors import NotReadyError, OprimeError, WeightVersionMissingError
from oprime_prm.scoring.pair import Beside, ScoringPair

log = structlog.get_logger()

START = 0
"""The version of the model that the PRM starts from; it is not in the store."""


@dataclass(slots=True)
class _Held:
    pair: ScoringPair
    users: int = 0


class FollowedVersions:
    """Loads versions beside those that score, so that nobody waits for a version that was not asked for."""

    def __init__(
        self,
        store: WeightStore,
        load: Callable[[Path | None], FrozenModel],
        reference: FrozenModel,
        *,
        beta: float,
        pad_id: int,
        most: int,
        fixed: int | None,
        clock: Clock,
        poll_s: float,
        note: Callable[[int], object] = int,
        beside: Beside | None = None,
    ) -> None:
        """`load` makes a model of a version's directory, and of None the one that the PRM starts from. `fixed` is the version that answers
        where none is named; None follows the newest. At most `most` versions are held, and one more while a newer one is loaded. `note`
        hears which one answers. `beside` is that of `ScoringPair`."""
        self._store = store
        self._load = load
        self._reference = reference
        self._beta = beta
        self._pad_id = pad_id
        self._most = most
        self._fixed = fixed
        self._clock = clock
        self._poll_s = poll_s
        self._note = note
        self._beside = beside
        self._held: dict[int, _Held] = {}
        """The one that was used last stands last."""
        self._freed = asyncio.Condition()
        self._loading = asyncio.Lock()
        self._on_disk: list[int] = []
        self._refused = ""
        self.newest = START
        """What answers where no version is named."""

    async def start(self) -> None:
        """Load the version that answers first. Raises WeightVersionMissingError or WeightsRefusedError."""
        self._on_disk = await asyncio.to_thread(self._store.versions)
        first = self._fixed if self._fixed is not None else max(self._on_disk, default=START)
        self._held[first] = _Held(await self._loaded(first))
        self.newest = first
        self._note(first)

    async def follow(self) -> None:
        """Move to newer versions as they appear, and back where a run goes on from an earlier checkpoint. A version that cannot be loaded
        is left out, and the one before answers on."""
        while True:
            await self._clock.sleep(self._poll_s)
            try:
                self._on_disk = await asyncio.to_thread(self._store.versions)
                latest = max(self._on_disk, default=START)
                if self._fixed is None and latest != self.newest:
                    await self._move_to(latest)
            except OprimeError as error:
                if str(error) != self._refused:
                    log.warning("weights_refused", serving=self.newest, reason=str(error))
                self._refused = str(error)

    async def _move_to(self, version: int) -> None:
        previous = self.newest
        async with self._loading:
            if version < previous:
                # The run repeats the steps after it, and may have repeated its own; whoever scores with one of them keeps it to the end.
                self._held = {held: what for held, what in self._held.items() if held < version or held == previous}
            if version not in self._held:
                self._held[version] = _Held(await self._loaded(version))
            self.newest, self._refused = version, ""
            self._note(version)
            if version < previous:
                del self._held[previous]
        log.info("weights_followed", prm_version=version, previous=previous)
        self._make_room(self._most)

    @asynccontextmanager
    async def using(self, version: int | None) -> AsyncIterator[ScoringPair]:
        """Keep a version for the length of the block; it is loaded if need be."""
        if not self._held:
            raise NotReadyError("the PRM is being loaded: ask again in a moment")
        wanted = self.newest if version is None else version
        held = self._held.get(wanted) or await self._ask_for(wanted)
        held.users += 1
        self._held[wanted] = self._held.pop(wanted, held)
        try:
            yield held.pair
        finally:
            held.users -= 1
            async with self._freed:
                self._freed.notify_all()

    def versions(self) -> list[int]:
        """What answers by name, oldest first."""
        return sorted({START, *self._on_disk, *self._held})

    async def _ask_for(self, version: int) -> _Held:
        """Load a version that a request names, once there is room for it."""
        if version not in {START, *await asyncio.to_thread(self._store.versions)}:
            known = ", ".join(f"prm@{one}" for one in self.versions())
            raise WeightVersionMissingError(f"prm@{version} is not on disk: there are {known}")
        async with self._loading:
            async with self._freed:
                await self._freed.wait_for(lambda: version in self._held or self._make_room(self._most - 1))
            if version not in self._held:
                self._held[version] = _Held(await self._loaded(version))
            return self._held[version]

    def _make_room(self, most: int) -> bool:
        """Let go of versions that nobody uses, the one that was used longest ago first; whether at most so many are left."""
        for version in [version for version, held in self._held.items() if not held.users and version != self.newest]:
            if len(self._held) <= most:
                break
            del self._held[version]
        return len(self._held) <= most

    async def _loaded(self, version: int) -> ScoringPair:
        return await asyncio.to_thread(self._pair, version)

    def _pair(self, version: int) -> ScoringPair:
        directory = None if version == START else self._store.fetch(version).directory
        return ScoringPair(
            prm=self._load(directory),
            reference=self._reference,
            beta=self._beta,
            pad_id=self._pad_id,
            version=version,
            beside=self._beside,
        )
