"""Token rewards from the process that trains the PRM: a copy that training does not touch."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from torch import Tensor

from oprime.core.prompt_families import PromptFamily
from oprime.lm.frozen import FrozenModel
from oprime.runtime.errors import NotReadyError, WeightVersionMissingError
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.prm_copy import PrmCopy
from oprime_prm.scoring.pair import ScoringPair, TokenScores


class ServingPrm:
    """The newest PRM version and its reference, from the first `note` on. Thread-safe: a refresh and a pass never mix.

    The copy gets the newest weights when somebody asks: at once where nothing is trained, else once the batch in hand is done, and then
    after every batch before which somebody asked.
    """

    def __init__(self, copy: PrmCopy, reference: FrozenModel, *, beta: float, pad_id: int) -> None:
        self._copy = copy
        self._reference = reference
        self._beta = beta
        self._pad_id = pad_id
        self._ready = False
        self._asked = False
        self.newest = 0
        self.fetch: Callable[[], Awaitable[object]] | None = None
        """Has the newest weights given to `refresh`."""

    def note(self, version: int) -> None:
        """The PRM is at this version now, whether or not the copy has it."""
        self.newest = version
        self._ready = True

    def refresh(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Give the copy a newer version; waits for the pass under way at most."""
        self._copy.refresh(weights, version)

    def was_asked(self) -> bool:
        """Whether somebody asked since the last call."""
        asked, self._asked = self._asked, False
        return asked

    @asynccontextmanager
    async def using(self, version: int | None) -> AsyncIterator["ServingPrm"]:
        """What scores with a version, or the newest. Raises NotReadyError before the first, WeightVersionMissingError for another."""
        if not self._ready:
            raise NotReadyError("the PRM has not loaded the weights of this run yet: ask again when it is healthy")
        if version not in (None, self.newest):
            raise WeightVersionMissingError(
                f"prm@{version} is not served: this run's PRM answers with its newest version alone, prm@{self.newest}; "
                "`oprime serve prm RUN` answers with every version that is on disk"
            )
        self._asked = True
        if self._copy.version < self.newest and self.fetch is not None:
            await self.fetch()
        yield self

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        return self._copy.model.shares(prompt_tokens, longest_response) and self._reference.shares(prompt_tokens, longest_response)

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        """Scores of each response of each family, and the one version that they come from."""
        with self._copy.lock:
            pair = ScoringPair(
                prm=self._copy.model, reference=self._reference, beta=self._beta, pad_id=self._pad_id, version=self._copy.version
            )
            return pair.score(families, most_tokens)

    def versions(self) -> list[int]:
        """What answers by name."""
        return [self.newest] if self._ready else []


class ElsewhereScored:
    """What stands for a PRM whose requests replicas answer."""

    def __init__(self, prm: ImplicitPrm) -> None:
        self._prm = prm

    @property
    def newest(self) -> int:
        return self._prm.version

    def versions(self) -> list[int]:
        return []

    @asynccontextmanager
    async def using(self, version: int | None) -> AsyncIterator[ServingPrm]:
        raise NotReadyError("this PRM trains, and replicas of the run score (scoring.replicas): ask one of endpoints.scorers")
        yield
