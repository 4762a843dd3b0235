"""The implicit PRM's share of a train step, the same on every rank: update on the outcomes, score every response token."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oprime.core.batching import split_groups
from oprime.core.implicit_reward import sequence_scores, token_process_rewards
from oprime.core.prm_loss import PairStatistics, outcome_cross_entropy, pair_losses, pair_statistics, pairwise_accuracies, sign_matches
from oprime.core.schedule import learning_rate
from oprime.core.token_rows import response_matrix
from oprime.core.types import Batch, VerifiedRollout
from oprime.lm.batches import MicroBatch, gather_responses, micro_batches
from oprime.lm.frozen import FrozenModel
from oprime.ports import TrainEngine
from oprime_prm.config import PrmSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What rank 0 learns from a batch."""

    process_rewards: tuple[np.ndarray, ...]
    """beta * log-ratio of every response token, per rollout."""
    prm_version: int
    metrics: dict[str, float]
    baseline_process_rewards: tuple[np.ndarray, ...] = ()
    """The same for the greedy baselines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rollouts of one optimizer step, dealt to this rank's micro-batches: trained on and scored alike. Or the greedy baselines."""

    rollouts: list[VerifiedRollout]
    first: int
    """Place of its first rollout in the batch; the rest follow."""
    batches: list[MicroBatch]
    reference: list[Tensor]
    """Reference log-probs of each micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    loss: float
    """Summed over the rollouts of all ranks."""
    matches: float
    """Rollouts of all ranks whose score has the sign of their outcome."""
    norm: float
    seen: list[Tensor]
    """The PRM's log-probs of each micro-batch, before the step."""


class ImplicitPrm:
    """pi_phi with its optimizer, and its reference. All methods are collective."""

    def __init__(self, engine: TrainEngine, reference: FrozenModel | None, settings: PrmSection, *, pad_id: int, total_steps: int) -> None:
        """Without a frozen `reference` the policy is the reference: the log-probs with which each rollout was sampled."""
        self._engine = engine
        self._reference = reference
        self._settings = settings
        self._pad_id = pad_id
        self._total_steps = total_steps
        self.version = 0
        """Updates so far, counted in batches."""

    def process(self, batch: Batch) -> Scored:
        """Update on the batch's outcomes and score it, all with one PRM version (paper, Algorithm 1, lines 7 and 8).

        The batch passes once through the reference, once through the training pass, and once through a scoring pass unless the
        training pass computes the very same. Greedy baselines are scored by the same version; losses and metrics never see them.
        Rewards and metrics are complete on rank 0 and empty elsewhere.
        """
        parts, baselines = self._parts(batch), self._baselines(batch)
        version, metrics = self.version, dict[str, float]()
        updated_first = self._settings.update == "double_forward"
        before = None if updated_first or self._scores_while_training else self._scores(parts)
        beside = [] if updated_first else self._scores(baselines)
        if self._settings.update != "offline":
            seen, metrics = self._update(batch, parts, self._pair_statistics(batch, parts, before))
            before = before or seen
            self.version += 1
        if updated_first:
            version, before, beside = self.version, self._scores(parts), self._scores(baselines)
        own, theirs = self._gathered(parts, before or []), self._gathered(baselines, beside)
        if self._engine.rank != 0:
            return Scored(process_rewards=(), prm_version=version, metrics={})
        metrics = _score_metrics(own, batch.rollouts) | metrics
        return Scored(process_rewards=tuple(own), prm_version=version, metrics=metrics, baseline_process_rewards=tuple(theirs))

    @property
    def _scores_while_training(self) -> bool:
        """Whether the only training pass sees the scores that are wanted: those of the version before the update."""
        return self._settings.update == "single_forward" and self._settings.updates_per_batch == 1

    def _parts(self, batch: Batch) -> list[Part]:
        parts: list[Part] = []
        first = 0
        for groups in split_groups(batch.groups, self._settings.updates_per_batch):
            parts.append(self._part([verified for group in groups for verified in group.rollouts], first))
            first += len(parts[-1].rollouts)
        return parts

    def _baselines(self, batch: Batch) -> list[Part]:
        return [self._part(list(batch.baselines), 0)] if batch.baselines else []

    def _part(self, rollouts: list[VerifiedRollout], first: int) -> Part:
        batches = micro_batches(
            rollouts,
            rank=self._engine.rank,
            ranks=self._engine.world_size,
            micro_batch_rollouts=self._settings.micro_batch_rollouts,
            micro_batch_tokens=self._settings.micro_batch_tokens,
            pad_id=self._pad_id,
        )
        reference = [self._reference_logprobs(micro, rollouts) for micro in batches]
        return Part(rollouts=rollouts, first=first, batches=batches, reference=reference)

    def _reference_logprobs(self, micro: MicroBatch, rollouts: list[VerifiedRollout]) -> Tensor:
        if self._reference is not None:
            return self._reference.logprobs(micro.rows)
        return response_matrix([rollouts[place].rollout.behaviour_logprobs for place in micro.positions], micro.rows.is_response)

    def _scores(self, parts: list[Part]) -> list[list[Tensor]]:
        """The PRM's log-probs of every part's micro-batches, by the version at hand."""
        return [[self._engine.logprobs(micro.rows) for micro in part.batches] for part in parts]

    def _rewards(self, part: Part, logprobs: list[Tensor]) -> list[Tensor]:
        return [
            token_process_rewards(prm, reference, micro.rows.is_response, self._settings.beta)
            for micro, prm, reference in zip(part.batches, logprobs, part.reference, strict=True)
        ]

    def _gathered(self, parts: list[Part], logprobs: list[list[Tensor]]) -> list[np.ndarray]:
        """Process rewards of all ranks' rollouts, in their order, on rank 0; empty elsewhere."""
        gathered: list[np.ndarray] = []
        for part, known in zip(parts, logprobs, strict=True):
            gathered += gather_responses(self._engine, part.batches, self._rewards(part, known), len(part.rollouts)) or []
        return gathered

    def _pair_statistics(self, batch: Batch, parts: list[Part], logprobs: list[list[Tensor]] | None) -> PairStatistics | None:
        """What a pair loss needs of the scores before the update, for all rollouts of the batch; None for the cross-entropy."""
        if self._settings.loss == "ce" or logprobs is None:
            return None
        scores = torch.zeros(len(batch.rollouts), dtype=torch.float64)
        for part, known in zip(parts, logprobs, strict=True):
            for micro, rewards in zip(part.batches, self._rewards(part, known), strict=True):
                places = torch.tensor(micro.positions, dtype=torch.int64) + part.first
                scores[places] = sequence_scores(rewards.double(), micro.rows.is_response)
        outcomes = torch.tensor([verified.outcome_reward for verified in batch.rollouts], dtype=torch.float64)
        group_ids = torch.tensor([verified.rollout.group_id for verified in batch.rollouts])
        return pair_statistics(self._settings.loss, self._engine.all_sum(scores), outcomes, group_ids)

    def _update(self, batch: Batch, parts: list[Part], statistics: PairStatistics | None) -> tuple[list[list[Tensor]], dict[str, float]]:
        """The log-probs that each part's training pass saw, and metrics."""
        rate = learning_rate(
            self.version + 1,
            peak=self._settings.learning_rate,
            schedule=self._settings.schedule,
            warmup_steps=self._settings.warmup_steps,
            total_steps=self._total_steps,
            min_ratio=self._settings.min_learning_rate_ratio,
        )
        losses, matches = 0.0, 0.0
        norms: list[float] = []
        seen: list[list[Tensor]] = []
        for part in parts:
            step = self._optimizer_step(part, _rows_of(statistics, slice(part.first, part.first + len(part.rollouts))), rate)
            losses += step.loss
            matches += step.matches
            norms.append(step.norm)
            seen.append(step.seen)
        count = len(batch.rollouts)
        return seen, {
            "prm_loss": losses / count,
            # Measured on scores from before each rollout was trained on.
            "prm_accuracy": matches / count,
            "prm_gradient_norm": sum(norms) / len(norms),
            "prm_learning_rate": rate,
        }

    def _optimizer_step(self, part: Part, statistics: PairStatistics | None, rate: float) -> OptimizerStep:
        outcomes = [torch.tensor([part.rollouts[place].outcome_reward for place in micro.positions]) for micro in part.batches]
        sums = torch.zeros(2, dtype=torch.float64)
        seen = [torch.zeros(micro.rows.is_response.shape) for micro in part.batches]

        def loss(index: int, prm_logprobs: Tensor) -> Tensor:
            micro, device = part.batches[index], prm_logprobs.device
            seen[index] = prm_logprobs.detach().float().cpu()
            is_response, outcome = micro.rows.is_response.to(device), outcomes[index].to(device)
            rewards = token_process_rewards(prm_logprobs, part.reference[index].to(device), is_response, self._settings.beta)
            scores = sequence_scores(rewards, is_response)
            terms = outcome_losses(scores, outcome, _rows_of(statistics, torch.tensor(micro.positions, dtype=torch.int64)))
            with torch.no_grad():
                sums[0] += terms.sum().double().cpu()
                sums[1] += sign_matches(scores, outcome).sum().double().cpu()
            return terms.sum() / len(part.rollouts)

        norm = self._engine.train_step([micro.rows for micro in part.batches], loss, learning_rate=rate)
        total = self._engine.all_sum(sums)
        return OptimizerStep(loss=float(total[0]), matches=float(total[1]), norm=norm, seen=seen)

    def state(self) -> dict[str, Any]:
        return {"version": self.version}

    def load_state(self, state: dict[str, Any]) -> None:
        self.version = int(state["version"])


def outcome_losses(scores: Tensor, outcomes: Tensor, statistics: PairStatistics | None) -> Tensor:
    """Loss per rollout: cross-entropy, or a pair loss where there are statistics for it."""
    if statistics is None:
        return outcome_cross_entropy(scores, outcomes)
    near = PairStatistics(others=statistics.others.to(scores), weights=statistics.weights.to(scores))
    return pair_losses(scores, outcomes, near)


def _rows_of(statistics: PairStatistics | None, rows: slice | Tensor) -> PairStatistics | None:
    return statistics and PairStatistics(others=statistics.others[rows], weights=statistics.weights[rows])


def _score_metrics(rewards: list[np.ndarray], rollouts: tuple[VerifiedRollout, ...]) -> dict[str, float]:
    """How the scores that the learner gets separate right from wrong."""
    scores = torch.tensor([float(values.sum()) for values in rewards], dtype=torch.float64)
    outcomes = torch.tensor([verified.outcome_reward for verified in rollouts], dtype=torch.float64)
    groups = torch.tensor([verified.rollout.group_id for verified in rollouts])
    pairwise = pairwise_accuracies(scores, outcomes, groups)
    return {
        "prm_scored_accuracy": float(sign_matches(scores, outcomes).mean()),
        "prm_pairwise_accuracy": float(pairwise.mean()) if len(pairwise) else math.nan,
        "prm_score_mean_right": _mean_where(scores, outcomes > 0.5),
        "prm_score_mean_wrong": _mean_where(scores, outcomes <= 0.5),
    }


def _mean_where(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else math.nan
