"""Advantages of a whole batch, by the estimator that the settings choose. The same on every rank.

Computed in float64 and in parts of whole groups, so that memory does not grow with the batch: what is particular to the batch is a
few numbers that are known before (normalisation) or found in a first pass (whitening).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from oprime.core.advantage import Estimate, GreedyRewards, Rewards, whitening_factor
from oprime.core.batching import chunk_of_each
from oprime.core.implicit_reward import chunk_scales, largest_returns, normalisation_scale, sequence_process_rewards
from oprime.core.masked import last_token
from oprime.core.moments import Moments, correlation
from oprime.core.process_credit import minimum_form
from oprime.core.token_rows import ragged, response_matrix, trained_tokens_alone
from oprime.core.types import Batch, ProcessRewards
from oprime.runtime.settings import AlgorithmSection

PART_TOKENS = 1_000_000
"""Tokens that are computed on at a time; a group that has more is a part of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdvantages:
    per_rollout: list[Tensor]
    """One advantage per token that is trained on, in the order of `batch.rollouts`."""
    metrics: dict[str, float]
    value_targets: list[Tensor] = field(default_factory=list[Tensor])
    """What the critic shall learn, laid out the same; empty without one."""


def batch_advantages(
    batch: Batch,
    process_rewards: ProcessRewards,
    algorithm: AlgorithmSection,
    outcome_rewards: Tensor | None = None,
    values: Sequence[Tensor] = (),
    *,
    noise_return: float = 0.0,
    part_tokens: int = PART_TOKENS,
) -> BatchAdvantages:
    """Advantages of the whole batch at once: normalisation and whitening are the batch's, baselines the group's.

    `outcome_rewards`, one per rollout, stand in for the verifier's where a KL was taken off them. `values` are the critic's, one tensor
    per rollout, where the estimator needs one. `noise_return` is the largest return that the rounding of process rewards was seen to have.
    Raises ValueError where something is missing that it needs.
    """
    earned = _Earned(batch, process_rewards, algorithm, verifier_rewards(batch) if outcome_rewards is None else outcome_rewards, values)
    parts = list(_parts(batch, part_tokens)) if algorithm.chosen_estimator.by_group else [range(len(batch.rollouts))]
    floor = normalisation_floor(algorithm, noise_return)
    scales = normalisation_scales(torch.cat([earned.largest_returns(part) for part in parts]), algorithm, floor=floor)

    @lru_cache(maxsize=1)
    def estimated(part: range) -> Estimate:
        return algorithm.chosen_estimator.estimate(earned.rewards(part, scales), algorithm.choices)

    before = _Measured()
    for part in parts if algorithm.whiten_advantages else ():
        before.add(estimated(part), earned.is_trained(part))
    factor = before.whitening_factor(algorithm)
    result = BatchAdvantages(per_rollout=[], metrics={})
    measured = _Measured()
    for part in parts:
        is_trained, estimate = earned.is_trained(part), estimated(part)
        if algorithm.whiten_advantages:
            estimate = estimate.whitened(is_trained, before.advantage, factor=factor)
        measured.add(estimate, is_trained)
        result.per_rollout.extend(row.float() for row in ragged(estimate.advantages, is_trained))
        if estimate.value_targets is not None:
            result.value_targets.extend(row.float() for row in ragged(estimate.value_targets, is_trained))
    result.metrics.update(measured.metrics(algorithm))
    if algorithm.guards_whitening:
        result.metrics["whitening_factor"] = factor
    if algorithm.needs_prm:
        result.metrics["process_return_largest"] = max(float(earned.largest_returns(part).max()) for part in parts)
        result.metrics["normalisation_floor"] = floor
    return result


class _Earned:
    """What the rollouts of a batch earned, part by part. A part is a range of places in `batch.rollouts`."""

    def __init__(
        self, batch: Batch, process: ProcessRewards, algorithm: AlgorithmSection, outcome: Tensor, values: Sequence[Tensor]
    ) -> None:
        self._batch = batch
        self._process = process
        self._algorithm = algorithm
        self._outcome = outcome
        self._values = values
        self._is_of_the_sequence = algorithm.granularity == "sequence"

    def is_trained(self, part: range) -> Tensor:
        """[rollout, token]: what is not trained on has no place here, and returns and values pass over it."""
        return trained_tokens_alone([self._batch.rollouts[place].rollout.trained_tokens for place in part])

    def process(self, part: range) -> Tensor:
        """Credit by the PRM's rewards, before normalisation; 0 where no term of the advantages needs them, whatever the batch holds."""
        is_trained = self.is_trained(part)
        if not self._algorithm.needs_prm:
            return torch.zeros(is_trained.shape, dtype=torch.float64)
        raw = response_matrix([self._process.rollouts[place] for place in part], is_trained, dtype=torch.float64)
        credited = self._credited(raw, is_trained)
        return sequence_process_rewards(credited, is_trained) if self._is_of_the_sequence else credited

    def _credited(self, raw: Tensor, is_trained: Tensor) -> Tensor:
        if self._algorithm.process_credit == "sum":
            return raw
        return minimum_form(raw, is_trained, temperature=self._algorithm.credit_temperature)

    def largest_returns(self, part: range) -> Tensor:
        return largest_returns(self.process(part), self.is_trained(part))

    def rewards(self, part: range, scales: Tensor) -> Rewards:
        rows, is_trained, own_scales = slice(part.start, part.stop), self.is_trained(part), scales[part.start : part.stop]
        values = self._values[rows]
        return Rewards(
            process=self.process(part) / own_scales[:, None],
            rewarded=last_token(is_trained) if self._is_of_the_sequence else is_trained,
            outcome=self._outcome[rows],
            is_trained=is_trained,
            group_ids=torch.tensor([self._batch.rollouts[place].rollout.group_id for place in part]),
            greedy=self._greedy(part, own_scales) if self._batch.baselines else None,
            values=response_matrix(values, is_trained, dtype=torch.float64) if self._values else None,
        )

    def _greedy(self, part: range, scales: Tensor) -> GreedyRewards:
        """Each rollout's greedy baseline, its process rewards divided by the rollout's own scale.

        No KL is taken off its outcome: a baseline may be any number that the sampled tokens do not change. Raises ValueError for a
        group without one.
        """
        baselines = self._batch.baselines
        outcomes = {verified.rollout.group_id: verified.outcome_reward for verified in baselines}
        means = dict.fromkeys(outcomes, 0.0)
        if self._algorithm.needs_prm:
            for verified, rewards in zip(baselines, self._process.baselines, strict=True):
                raw = torch.from_numpy(np.asarray(rewards, dtype=np.float64))[None]
                values = self._credited(raw, torch.ones_like(raw, dtype=torch.bool))
                means[verified.rollout.group_id] = float(values.sum() if self._is_of_the_sequence else values.mean())
        ids = [self._batch.rollouts[place].rollout.group_id for place in part]
        if missing := sorted(set(ids) - outcomes.keys()):
            raise ValueError(f"group {missing[0]} has no greedy baseline, but others of its batch have one: drop it before batching")
        return GreedyRewards(
            outcome=torch.tensor([outcomes[name] for name in ids], dtype=torch.float64),
            process_mean=torch.tensor([means[name] for name in ids], dtype=torch.float64) / scales,
        )


def _parts(batch: Batch, most: int) -> Iterator[range]:
    """Ranges of places of whole groups, each of at most `most` tokens as they are laid out, or of one group."""
    start = end = longest = 0
    for group in batch.groups:
        own = max(verified.rollout.trained_tokens for verified in group.rollouts)
        if start < end and max(longest, own) * (end - start + len(group.rollouts)) > most:
            yield range(start, end)
            start, longest = end, 0
        end, longest = end + len(group.rollouts), max(longest, own)
    yield range(start, end)


def normalisation_floor(algorithm: AlgorithmSection, noise_return: float) -> float:
    """Below this largest return, rewards are left alone."""
    return max(algorithm.normalisation_floor, algorithm.normalisation_noise * noise_return)


def normalisation_scales(largest: Tensor, algorithm: AlgorithmSection, *, floor: float) -> Tensor:
    """What each rollout's process rewards are divided by, from the largest return of each."""
    count = len(largest)
    match algorithm.process_normalisation:
        case "batch_norm":
            return normalisation_scale(largest, floor=floor).expand(count)
        case "per_rank":
            chunks = torch.tensor(chunk_of_each(count, min(algorithm.normalisation_chunks, count)))
            return chunk_scales(largest, chunks, floor=floor)
        case "none":
            return torch.ones_like(largest)


def verifier_rewards(batch: Batch) -> Tensor:
    return torch.tensor([verified.outcome_reward for verified in batch.rollouts], dtype=torch.float64)


class _Measured:
    """Advantages as they are used, and each source's part of them before its weight."""

    def __init__(self) -> None:
        self.advantage, self._process, self._outcome, self._both = Moments(), Moments(), Moments(), Moments()

    def add(self, estimate: Estimate, is_trained: Tensor) -> None:
        self.advantage.add(estimate.advantages[is_trained])
        self._process.add(estimate.sources.process[is_trained])
        self._outcome.add(estimate.sources.outcome[is_trained])
        self._both.add((estimate.sources.process + estimate.sources.outcome)[is_trained])

    def whitening_factor(self, algorithm: AlgorithmSection) -> float:
        if not algorithm.guards_whitening or self._outcome.count < 2:
            return 1.0
        process, outcome = algorithm.process_weight * self._process.deviation, algorithm.outcome_weight * self._outcome.deviation
        return whitening_factor(process, outcome, guard=algorithm.whitening_guard)

    def metrics(self, algorithm: AlgorithmSection) -> dict[str, float]:
        return {
            **(self._process_metrics(algorithm) if algorithm.needs_prm else {}),
            "advantage_max": self.advantage.largest,
            **_metrics_of("advantage", self.advantage),
            **_metrics_of("outcome_return", self._outcome),
        }

    def _process_metrics(self, algorithm: AlgorithmSection) -> dict[str, float]:
        metrics = _metrics_of("process_return", self._process)
        if algorithm.outcome_weight > 0 and not algorithm.chosen_estimator.process_is_baseline:
            metrics["process_outcome_correlation"] = correlation(self._process, self._outcome, self._both)
        return metrics


def _metrics_of(name: str, moments: Moments) -> dict[str, float]:
    return {f"{name}_mean": moments.mean, f"{name}_std": moments.variance**0.5}
