"""Score requests: texts or tokens in, token rewards out."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from oprime.runtime.errors import TooManyError, WeightVersionMissingError
from oprime_prm.scoring.inputs import InputReader, ScoreInput, Wanted
from oprime_prm.scoring.meter import ScoreMeter
from oprime_prm.scoring.pair import TokenScores
from oprime_prm.scoring.queue import ScoreQueue, Scores


class Versions(Protocol):
    """Which versions of the PRM answer."""

    @property
    def newest(self) -> int:
        """What answers where no version is named."""
        ...

    def versions(self) -> list[int]:
        """What answers by name, oldest first."""
        ...

    def using(self, version: int | None) -> AbstractAsyncContextManager[Scores]:
        """Keep a version, or the newest, for the length of the block. Raises WeightVersionMissingError, NotReadyError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    input: ScoreInput
    scores: TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRequest:
    items: list[ScoredItem | str]
    """In the order of the inputs; a text says why an input could not be scored."""
    version: int


class Scorer:
    """Reads inputs and has those scored that can be."""

    def __init__(
        self, reader: InputReader, queue: ScoreQueue, versions: Versions, *, max_items: int, scores: ScoreMeter | None = None
    ) -> None:
        self._reader = reader
        self._queue = queue
        self._max_items = max_items
        self._scores = scores or ScoreMeter()
        self.versions = versions

    @property
    def scored_tokens(self) -> int:
        return self._queue.scored_tokens

    @property
    def waiting_tokens(self) -> int:
        return self._queue.waiting_tokens

    async def score(self, inputs: Sequence[Wanted], version: int | None) -> ScoredRequest:
        """Scores of all inputs, from one version of the PRM: the one that is named, or else the newest. Raises TooManyError."""
        with self._scores.request(named=version is not None):
            return await self._score(inputs, version)

    async def _score(self, inputs: Sequence[Wanted], version: int | None) -> ScoredRequest:
        if len(inputs) > self._max_items:
            raise TooManyError(f"{len(inputs)} items exceed {self._max_items} (prm.max_score_items): send them in several requests")
        read = await self._reader.read(inputs)
        good = [one for one in read if isinstance(one, ScoreInput)]
        async with self.versions.using(version) as model:
            scores, used = await self._queue.score(model, good) if good else ([], self.versions.newest if version is None else version)
        if version not in (None, used):
            raise WeightVersionMissingError(f"prm@{version} was replaced by prm@{used} while it scored: ask for that, or name none")
        found = iter(scores)
        items = [ScoredItem(input=one, scores=next(found)) if isinstance(one, ScoreInput) else one for one in read]
        return ScoredRequest(items=items, version=used)
