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

        Greedy baselines are scored in the same passes; losses and metrics never see them. Rewards and metrics are complete on rank 0
        and empty elsewhere.
        """
        rollouts, trained = batch.rollouts + batch.baselines, len(batch.rollouts)
        parts = self._deal(rollouts)
        reference = [self._reference_logprobs(part, rollouts) for part in parts]
        before = [self._engine.logprobs(part.rows) for part in parts] if self._settings.update != "double_forward" else []
        metrics: dict[str, float] = {}
        if self._settings.update != "offline":
            metrics |= self._update(batch, self._pair_statistics(batch, parts, before, reference))
            self.version += 1
        after = [self._engine.logprobs(part.rows) for part in parts] if self._settings.update == "double_forward" else before
        rewards = [
            token_process_rewards(prm, ref, part.rows.is_response, self._settings.beta)
            for part, prm, ref in zip(parts, after, reference, strict=True)
        ]
        gathered = gather_responses(self._engine, parts, rewards, len(rollouts))
        version = self.version - 1 if self._settings.update in ("single_forward", "reverse") else self.version
        if gathered is None:
            return Scored(process_rewards=(), prm_version=version, metrics={})
        own = _score_metrics(gathered[:trained], batch.rollouts)
        return Scored(
            process_rewards=tuple(gathered[:trained]),
            prm_version=version,
            metrics=own | metrics,
            baseline_process_rewards=tuple(gathered[trained:]),
        )

    def _deal(self, rollouts: tuple[VerifiedRollout, ...]) -> list[MicroBatch]:
        return micro_batches(
            rollouts,
            rank=self._engine.rank,
            ranks=self._engine.world_size,
            micro_batch_rollouts=self._settings.micro_batch_rollouts,
            pad_id=self._pad_id,
        )

    def _reference_logprobs(self, part: MicroBatch, rollouts: tuple[VerifiedRollout, ...]) -> Tensor:
        if self._reference is not None:
            return self._reference.logprobs(part.rows)
        return response_matrix([rollouts[place].rollout.behaviour_logprobs for place in part.positions], part.rows.is_response)

    def _pair_statistics(
        self, batch: Batch, parts: list[MicroBatch], prm_logprobs: list[Tensor], reference_logprobs: list[Tensor]
    ) -> PairStatistics | None:
        """What a pair loss needs of the scores before the update, for all rollouts of the batch; None for the cross-entropy."""
        if self._settings.loss == "ce":
            return None
        scores = torch.zeros(len(batch.rollouts) + len(batch.baselines), dtype=torch.float64)
        for part, prm, reference in zip(parts, prm_logprobs, reference_logprobs, strict=True):
            rewards = token_process_rewards(prm, reference, part.rows.is_response, self._settings.beta)
            scores[torch.tensor(part.positions, dtype=torch.int64)] = sequence_scores(rewards.double(), part.rows.is_response)
        outcomes = torch.tensor([verified.outcome_reward for verified in batch.rollouts], dtype=torch.float64)
        group_ids = torch.tensor([verified.rollout.group_id for verified in batch.rollouts])
        return pair_statistics(self._settings.loss, self._engine.all_sum(scores)[: len(outcomes)], outcomes, group_ids)

    def _update(self, batch: Batch, statistics: PairStatistics | None) -> dict[str, float]:
        rate = learning_rate(
            self.version + 1,
            peak=self._settings.learning_rate,
            schedule=self._settings.schedule,
            warmup_steps=self._settings.warmup_steps,
            total_steps=self._total_steps,
            min_ratio=self._settings.min_learning_rate_ratio,
        )
        losses, norms, matches = 0.0, [], 0.0
        first = 0
        for groups in split_groups(batch.groups, self._settings.updates_per_batch):
            rollouts = tuple(verified for group in groups for verified in group.rollouts)
            loss, match, norm = self._optimizer_step(rollouts, _rows_of(statistics, slice(first, first + len(rollouts))), rate)
            first += len(rollouts)
            losses += loss
            matches += match
            norms.append(norm)
        count = len(batch.rollouts)
        return {
            "prm_loss": losses / count,
            # Measured on scores from before each rollout was trained on.
            "prm_accuracy": matches / count,
            "prm_gradient_norm": sum(norms) / len(norms),
            "prm_learning_rate": rate,
        }

    def _optimizer_step(
        self, rollouts: tuple[VerifiedRollout, ...], statistics: PairStatistics | None, rate: float
    ) -> tuple[float, float, float]:
        """Sum of losses, number of right signs, gradient norm."""
        parts = self._deal(rollouts)
        reference = [self._reference_logprobs(part, rollouts) for part in parts]
        outcomes = [torch.tensor([rollouts[place].outcome_reward for place in part.positions]) for part in parts]
        sums = torch.zeros(2, dtype=torch.float64)

        def loss(index: int, prm_logprobs: Tensor) -> Tensor:
            rows, outcome = parts[index].rows, outcomes[index].to(prm_logprobs.device)
            is_response = rows.is_response.to(prm_logprobs.device)
            rewards = token_process_rewards(prm_logprobs, reference[index].to(prm_logprobs.device), is_response, self._settings.beta)
            scores = sequence_scores(rewards, is_response)
            terms = outcome_losses(scores, outcome, _rows_of(statistics, torch.tensor(parts[index].positions, dtype=torch.int64)))
            with torch.no_grad():
                sums[0] += terms.sum().double().cpu()
                sums[1] += sign_matches(scores, outcome).sum().double().cpu()
            return terms.sum() / len(rollouts)

        norm = self._engine.train_step([part.rows for part in parts], loss, learning_rate=rate)
        total = self._engine.all_sum(sums)
        return float(total[0]), float(total[1]), norm

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
