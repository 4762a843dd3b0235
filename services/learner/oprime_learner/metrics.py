"""What a train step says about itself."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from oprime.core.mismatch import mismatch
from oprime.core.policy_loss import PolicyLossOptions, PolicyLossSums
from oprime.core.staleness import rollout_staleness
from oprime.core.types import Batch
from oprime.lm.batches import MicroBatch

COMPARED_TOKENS = 1_000_000
"""Most tokens of a rank and step that sampler and learner are compared on."""


def loss_metrics(sums: PolicyLossSums, options: PolicyLossOptions, *, optimizer_steps: int) -> dict[str, float]:
    """Shares and means over all response tokens of a train step."""
    tokens = sums.tokens
    metrics = {
        "policy_loss": sums.loss / optimizer_steps,
        **{f"{name}_tokens_ratio": count / tokens for name, count in sums.marked.items()},
        "capped_tokens_ratio": sums.capped / tokens,
        "importance_weight_mean": sums.importance_weight / tokens,
        "policy_kl_nats": sums.proximal_kl / tokens,
        "policy_entropy_nats": sums.entropy / tokens,
        "policy_surprisal_nats": sums.surprisal / tokens,
        "trained_tokens": tokens,
    }
    if options.kl_coefficient > 0:
        metrics["reference_kl_nats"] = sums.reference_kl / tokens
    return metrics


def batch_metrics(batch: Batch) -> dict[str, float]:
    """What the batch itself looks like."""
    rollouts = batch.rollouts
    mixed = [one.rollout.oldest_weight_version != one.rollout.newest_weight_version for one in rollouts]
    staleness = [rollout_staleness(batch.step, verified.rollout.oldest_weight_version) for verified in rollouts]
    rewards = [verified.outcome_reward for verified in rollouts]
    return {
        "trained_outcome_reward_mean": sum(rewards) / len(rewards),
        "staleness_max": float(max(staleness)),
        "staleness_mean": sum(staleness) / len(staleness),
        "mixed_version_share": sum(mixed) / len(rollouts),
    }


class Comparison:
    """Sampler's and learner's log-probs of this rank's tokens, thinned evenly where they are more than `most`."""

    def __init__(self, tokens: int, most: int = COMPARED_TOKENS) -> None:
        """`tokens` are all that this rank trains on in the step."""
        self._stride = max(1, -(-tokens // most))
        self._seen = 0
        self._pairs: list[Tensor] = [torch.zeros(2, 0)]

    def add(self, micro: MicroBatch, logprobs: Tensor) -> None:
        is_trained = micro.rows.is_trained
        pairs = torch.stack([micro.behaviour[is_trained], logprobs[is_trained]])
        self._pairs.append(pairs[:, -self._seen % self._stride :: self._stride].clone())
        self._seen += pairs.shape[1]

    def to_bytes(self) -> bytes:
        return torch.cat(self._pairs, dim=1).numpy().astype("<f4").tobytes()


def mismatch_metrics(comparisons: Sequence[bytes] | None) -> dict[str, float]:
    """Sampler against learner, over the tokens that all ranks compared; empty except on rank 0."""
    if comparisons is None:
        return {}
    pairs = np.concatenate([np.frombuffer(pair, dtype="<f4").reshape(2, -1) for pair in comparisons], axis=1)
    sampler, learner = (torch.from_numpy(row.copy())[None] for row in pairs)
    stats = mismatch(sampler, learner, torch.ones_like(sampler, dtype=torch.bool))
    return {
        "mismatch_kl_nats": stats.kl_k3,
        "mismatch_kl_k1_nats": stats.kl_k1,
        "ratio_p01": stats.ratio_p01,
        "ratio_p99": stats.ratio_p99,
        "ratio_max": stats.ratio_max,
        "ratio_outside_share": stats.outside_ratio,
    }
