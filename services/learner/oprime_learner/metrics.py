"""What a train step says about itself."""

import numpy as np
import torch

from oprime.core.mismatch import mismatch
from oprime.core.policy_loss import PolicyLossOptions, PolicyLossSums
from oprime.core.staleness import rollout_staleness
from oprime.core.types import ScoredBatch, VerifiedRollout


def loss_metrics(sums: PolicyLossSums, options: PolicyLossOptions, *, optimizer_steps: int) -> dict[str, float]:
    """Shares and means over all response tokens of a train step."""
    tokens = sums.tokens
    metrics = {
        "policy_loss": sums.loss / optimizer_steps,
        "clipped_tokens_ratio": sums.clipped / tokens,
        "capped_tokens_ratio": sums.capped / tokens,
        "importance_weight_mean": sums.importance_weight / tokens,
        "policy_kl_nats": sums.proximal_kl / tokens,
        "policy_entropy_nats": sums.entropy / tokens,
        "policy_surprisal_nats": sums.surprisal / tokens,
        "trained_tokens": tokens,
    }
    if options.dual_clip is not None:
        metrics["dual_clipped_tokens_ratio"] = sums.dual_clipped / tokens
    if options.kl_coefficient > 0:
        metrics["reference_kl_nats"] = sums.reference_kl / tokens
    return metrics


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


def mismatch_metrics(parts: list[list[VerifiedRollout]], learner_logprobs: list[list[np.ndarray] | None]) -> dict[str, float]:
    """Sampler against learner, over the batch; empty except on rank 0."""
    sampler: list[np.ndarray] = []
    learner: list[np.ndarray] = []
    for part, values in zip(parts, learner_logprobs, strict=True):
        if values is None:
            return {}
        sampler += [verified.rollout.behaviour_logprobs for verified in part]
        learner += values
    first, second = (torch.from_numpy(np.concatenate(values).copy())[None] for values in (sampler, learner))
    stats = mismatch(first, second, torch.ones_like(first, dtype=torch.bool))
    return {
        "mismatch_kl_nats": stats.kl_k3,
        "mismatch_kl_k1_nats": stats.kl_k1,
        "ratio_p01": stats.ratio_p01,
        "ratio_p99": stats.ratio_p99,
        "ratio_max": stats.ratio_max,
        "ratio_outside_share": stats.outside_ratio,
    }
