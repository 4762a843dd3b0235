"""Rollouts for tests, written to one store of payloads in memory, and what reads them from there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch import Tensor

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.core.moments import Moments
from oprime.core.token_rows import TokenRows, token_rows_of
from oprime.core.types import (
    Batch,
    FinishReason,
    ProcessRewards,
    Rollout,
    RolloutRecord,
    Segment,
    TokenFloats,
    VerifiedRollout,
    WeightVersionSpan,
    sampled,
    untrained,
)
from oprime.core.verification import scored
from oprime.runtime.rollout_payloads import read_rollouts, write_rollouts

STORE = MemoryPayloads()
CONTENTS = partial(read_rollouts, STORE)
"""Fetches rollouts by their records, as trainers want it."""


def single_turn(
    group_id: int,
    index: int,
    prompt: npt.ArrayLike,
    response: npt.ArrayLike,
    *,
    logprobs: npt.ArrayLike | None = None,
    version: int = 0,
    seed: int = 0,
    text: str = "",
    finish_reason: FinishReason = FinishReason.STOP,
) -> Rollout:
    """A prompt and its response, all of one weight version; behaviour log-probs of -1 unless given."""
    tokens = len(np.asarray(response))
    values = np.full(tokens, -1.0, dtype=np.float32) if logprobs is None else logprobs
    spans = [WeightVersionSpan(start=0, end=tokens, version=version)]
    return of_segments(
        group_id, index, (untrained(prompt), *sampled(response, values, spans)), seed=seed, text=text, finish_reason=finish_reason
    )


def of_segments(
    group_id: int,
    index: int,
    segments: Sequence[Segment],
    *,
    seed: int = 0,
    text: str = "",
    finish_reason: FinishReason = FinishReason.STOP,
) -> Rollout:
    return Rollout(group_id=group_id, index=index, seed=seed, segments=tuple(segments), text=text, finish_reason=finish_reason)


def in_turns(rollout: Rollout) -> Rollout:
    """The same prompt and trained tokens, after some of which others wrote one to three tokens; always after the last one."""
    dice = np.random.default_rng([rollout.group_id, rollout.index])
    segments = [untrained(rollout.prompt_ids)]
    for turn in rollout.trained_segments:
        ends = [place for place in range(1, len(turn.token_ids)) if dice.random() < 0.5]
        for start, end in pairwise([0, *ends, len(turn.token_ids)]):
            segments.append(replace(turn, token_ids=turn.token_ids[start:end], logprobs=turn.logprobs[start:end]))
            segments.append(untrained(dice.integers(6, 54, size=int(dice.integers(1, 4)))))
    return replace(rollout, segments=tuple(segments))


def written(rollout: Rollout) -> RolloutRecord:
    """The record of a rollout that is now in the store."""
    return write_rollouts(STORE, [rollout])[0]


def verified(rollout: Rollout, score: float) -> VerifiedRollout:
    return VerifiedRollout(rollout=written(rollout), outcome=scored(float(score)))


def content(one: VerifiedRollout | RolloutRecord) -> Rollout:
    """The rollout that a record stands for."""
    return CONTENTS([one.rollout if isinstance(one, VerifiedRollout) else one])[0]


def rows_of(batch: Batch) -> TokenRows:
    """All rollouts of a batch as rows."""
    rollouts = [content(one) for one in batch.rollouts]
    return token_rows_of([one.token_ids for one in rollouts], [one.is_trained for one in rollouts], pad_id=0)


def moments_of(values: Tensor, mask: Tensor) -> Moments:
    """Of all values inside the mask."""
    moments = Moments()
    moments.add(values[mask])
    return moments


class Emitted:
    """Collects what a PRM emits."""

    def __init__(self) -> None:
        self._by_place: dict[int, TokenFloats] = {}

    def __call__(self, place: int, values: TokenFloats) -> None:
        assert place not in self._by_place, f"rollout {place} has its rewards twice"
        self._by_place[place] = values

    def __iter__(self) -> Iterator[TokenFloats]:
        """In the order of the batch, baselines last."""
        return iter([self._by_place[place] for place in sorted(self._by_place)])

    def of(self, batch: Batch) -> ProcessRewards:
        values = list(self)
        assert len(values) == len(batch.rollouts) + len(batch.baselines)
        return ProcessRewards(rollouts=values[: len(batch.rollouts)], baselines=values[len(batch.rollouts) :])
