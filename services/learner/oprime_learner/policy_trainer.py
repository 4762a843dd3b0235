"""The learner's share of a train step, the same on every rank: advantages, clipped policy loss, optimizer steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oprime.core.advantage import AdvantageResult, rloo_advantages
from oprime.core.batching import split_groups
from oprime.core.policy_loss import mismatch, policy_loss
from oprime.core.schedule import learning_rate
from oprime.core.staleness import rollout_staleness
from oprime.core.token_rows import response_matrix, token_rows
from oprime.core.types import ScoredBatch, VerifiedRollout
from oprime.lm.batches import MicroBatch, gather_responses, micro_batches
from oprime.ports import TrainEngine
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One rollout with its advantages, ready for a micro-batch."""

    verified: VerifiedRollout
    advantages: np.ndarray


class PolicyTrainer:
    """pi_theta with its optimizer. `process` is collective; its metrics are complete on rank 0."""

    def __init__(
        self, engine: TrainEngine, algorithm: AlgorithmSection, settings: LearnerSection, *, pad_id: int, total_steps: int
    ) -> None:
        self._engine = engine
        self._algorithm = algorithm
        self._settings = settings
        self._pad_id = pad_id
        self._total_steps = total_steps
        self.trained_tokens = 0

    def process(self, scored: ScoredBatch) -> dict[str, float]:
        """Train on one batch: step t of the policy."""
        step = scored.batch.step
        rollouts = scored.batch.rollouts
        result = batch_advantages(scored, self._algorithm)
        rows = [
            TrainRow(verified=verified, advantages=values.numpy()) for verified, values in zip(rollouts, result.per_rollout, strict=True)
        ]
        rate = learning_rate(
            step,
            peak=self._settings.learning_rate,
            schedule=self._settings.schedule,
            warmup_steps=self._settings.warmup_steps,
            total_steps=self._total_steps,
            min_ratio=self._settings.min_learning_rate_ratio,
        )
        metrics = self._update(scored, rows, rate)
        self.trained_tokens += sum(len(verified.rollout.response_ids) for verified in rollouts)
        return metrics | result.metrics | batch_metrics(scored) | {"learning_rate": rate}

    def _update(self, scored: ScoredBatch, rows: list[TrainRow], rate: float) -> dict[str, float]:
        by_group: dict[int, list[TrainRow]] = {}
        for row in rows:
            by_group.setdefault(row.verified.rollout.group_id, []).append(row)
        parts = [
            [row for group in groups for row in by_group[group.group_id]]
            for groups in split_groups(scored.batch.groups, self._settings.updates_per_batch)
        ]
        dealt = [self._deal(part) for part in parts]
        # With one optimizer step the proximal policy is the policy itself, and its forward pass is the training pass.
        proximal = [[self._engine.logprobs(batch.rows) for batch in batches] if len(parts) > 1 else None for batches in dealt]
        totals = torch.zeros(5, dtype=torch.float64)
        norms: list[float] = []
        learner_logprobs: list[list[np.ndarray] | None] = []
        for part, batches, before in zip(parts, dealt, proximal, strict=True):
            sums, norm, seen = self._optimizer_step(part, batches, before, rate)
            totals += sums
            norms.append(norm)
            learner_logprobs.append(gather_responses(self._engine, batches, before or seen, len(part)))
        totals = self._engine.all_sum(totals)
        tokens = float(totals[0])
        return {
            "policy_loss": float(totals[1]) / len(parts),
            "policy_gradient_norm": sum(norms) / len(norms),
            "clipped_tokens_ratio": float(totals[2]) / tokens,
            "capped_tokens_ratio": float(totals[3]) / tokens,
            "policy_kl_nats": float(totals[4]) / tokens,
            "trained_tokens": tokens,
            **_mismatch_metrics(parts, learner_logprobs),
        }

    def _deal(self, part: list[TrainRow]) -> list[MicroBatch]:
        return micro_batches(
            [row.verified for row in part],
            rank=self._engine.rank,
            ranks=self._engine.world_size,
            micro_batch_rollouts=self._settings.micro_batch_rollouts,
            pad_id=self._pad_id,
        )

    def _optimizer_step(
        self, part: list[TrainRow], batches: list[MicroBatch], proximal: list[Tensor] | None, rate: float
    ) -> tuple[Tensor, float, list[Tensor]]:
        """Sums of this rank (tokens, loss, clipped, capped, KL), the gradient norm, and the policy's log-probs before it."""
        token_count = sum(len(row.verified.rollout.response_ids) for row in part)
        sums = torch.zeros(5, dtype=torch.float64)
        seen: list[Tensor] = [torch.zeros(batch.rows.is_response.shape) for batch in batches]

        def loss(index: int, logprobs: Tensor) -> Tensor:
            batch, device = batches[index], logprobs.device
            seen[index] = logprobs.detach().cpu()
            is_response = batch.rows.is_response
            behaviour = response_matrix([part[place].verified.rollout.behaviour_logprobs for place in batch.positions], is_response)
            advantages = response_matrix([part[place].advantages for place in batch.positions], is_response)
            result = policy_loss(
                logprobs,
                (seen[index] if proximal is None else proximal[index]).to(device),
                behaviour.to(device),
                advantages.to(device),
                is_response.to(device),
                clip_low=self._algorithm.clip_low,
                clip_high=self._algorithm.clip_high,
                importance_cap=self._algorithm.importance_cap,
                token_count=token_count,
            )
            counts = (result.tokens, float(result.loss.detach()), result.clipped_tokens, result.capped_tokens, result.kl_sum)
            sums.add_(torch.tensor(counts, dtype=torch.float64))
            return result.loss

        norm = self._engine.train_step([batch.rows for batch in batches], loss, learning_rate=rate)
        return sums, norm, seen


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdvantages:
    per_rollout: list[Tensor]
    """One advantage per response token, in the order of `batch.rollouts`."""
    metrics: dict[str, float]


def batch_advantages(scored: ScoredBatch, algorithm: AlgorithmSection) -> BatchAdvantages:
    """Advantages of the whole batch at once: baselines and whitening mix siblings and groups."""
    rollouts = scored.batch.rollouts
    # One prompt token stands for the prompt: advantages look at responses only.
    rows = token_rows([[0]] * len(rollouts), [verified.rollout.response_ids for verified in rollouts], pad_id=0)
    result: AdvantageResult = rloo_advantages(
        response_matrix(scored.process_rewards, rows.is_response),
        torch.tensor([verified.outcome_reward for verified in rollouts]),
        rows.is_response,
        torch.tensor([verified.rollout.group_id for verified in rollouts]),
        loo=algorithm.loo,
        process_weight=algorithm.process_weight,
        outcome_weight=algorithm.outcome_weight,
        process_discount=algorithm.process_discount,
        outcome_discount=algorithm.outcome_discount,
        normalise=algorithm.process_normalisation == "batch_norm",
        normalisation_floor=algorithm.normalisation_floor,
        whiten=algorithm.whiten_advantages,
    )
    mask = rows.is_response
    return BatchAdvantages(
        per_rollout=[result.advantages[row][mask[row]] for row in range(len(rollouts))],
        metrics={
            "advantage_std": float(result.advantages[mask].std()),
            "advantage_max": float(result.advantages[mask].abs().max()),
            "process_return_std": float(result.process_returns[mask].std()),
            "outcome_return_std": float(result.outcome_returns[mask].std()),
        },
    )


def batch_metrics(scored: ScoredBatch) -> dict[str, float]:
    """What the batch itself looks like."""
    rollouts = scored.batch.rollouts
    staleness = [rollout_staleness(scored.batch.step, verified.rollout.oldest_weight_version) for verified in rollouts]
    rewards = [verified.outcome_reward for verified in rollouts]
    return {
        "trained_outcome_reward_mean": sum(rewards) / len(rewards),
        "staleness_max": float(max(staleness)),
        "staleness_mean": sum(staleness) / len(staleness),
        "mixed_version_share": sum(len({span.version for span in verified.rollout.spans}) > 1 for verified in rollouts) / len(rollouts),
    }


def _mismatch_metrics(parts: list[list[TrainRow]], learner_logprobs: list[list[np.ndarray] | None]) -> dict[str, float]:
    """Sampler against learner, over the batch; empty except on rank 0."""
    pairs: list[tuple[Any, Any]] = []
    for part, values in zip(parts, learner_logprobs, strict=True):
        if values is None:
            return {}
        pairs += [(row.verified.rollout.behaviour_logprobs, mine) for row, mine in zip(part, values, strict=True)]
    sampler = torch.from_numpy(np.concatenate([pair[0] for pair in pairs]).copy())[None]
    learner = torch.from_numpy(np.concatenate([pair[1] for pair in pairs]).copy())[None]
    stats = mismatch(sampler, learner, torch.ones_like(sampler, dtype=torch.bool))
    return {
        "mismatch_kl_nats": stats.kl_k3,
        "mismatch_kl_k1_nats": stats.kl_k1,
        "ratio_p99": stats.ratio_p99,
        "ratio_outside_share": stats.outside_ratio,
    }
