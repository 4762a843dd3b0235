"""Token rewards from the process that trains the PRM: a copy that training does not touch."""

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from torch import Tensor

from oprime.core.prompt_families import PromptFamily
from oprime.lm.frozen import FrozenModel
from oprime.runtime.errors import NotReadyError, WeightVersionMissingError
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.scoring.pair import ScoringPair, TokenScores


class ServingPrm:
    """The newest PRM version and its reference, from the first refresh on. Thread-safe: a refresh and a pass never mix."""

    def __init__(self, copy: FrozenModel, reference: FrozenModel, *, beta: float, pad_id: int) -> None:
        self._copy = copy
        self._reference = reference
        self._beta = beta
        self._pad_id = pad_id
        self._lock = threading.Lock()
        self._ready = False
        self.newest = 0

    def refresh(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Move to a newer version; waits for the pass under way at most."""
        with self._lock:
            self._copy.load_weights(weights)
            self.newest = version
            self._ready = True

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
        yield self

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        return self._copy.shares(prompt_tokens, longest_response) and self._reference.shares(prompt_tokens, longest_response)

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        """Scores of each response of each family, and the one version that they come from."""
        with self._lock:
            pair = ScoringPair(prm=self._copy, reference=self._reference, beta=self._beta, pad_id=self._pad_id, version=self.newest)
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
