"""Advantages of a whole batch, by the estimator that the settings choose. The same on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from oprime.core.advantage import AdvantageResult, Discounts, Rewards, SourceReturns, advantages, grpo, prm_value, reinforce, remax, rloo
from oprime.core.batching import chunk_of_each
from oprime.core.critic import generalised_advantages, ppo_token_rewards
from oprime.core.implicit_reward import chunk_scales, largest_return, normalisation_scale, sequence_process_rewards
from oprime.core.masked import last_token, masked_whiten
from oprime.core.token_rows import ragged, response_matrix, token_rows
from oprime.core.types import ScoredBatch
from oprime.runtime.settings import AlgorithmSection


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdvantages:
    per_rollout: list[Tensor]
    """One advantage per response token, in the order of `batch.rollouts`."""
    metrics: dict[str, float]
    value_targets: list[Tensor] = field(default_factory=list[Tensor])
    """What the critic shall learn, laid out the same (PPO); else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Advantages as matrices, and PPO's value targets."""

    result: AdvantageResult
    value_targets: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreedyRewards:
    """What the greedy response to each rollout's prompt earned; one number per rollout."""

    outcome: Tensor
    process_mean: Tensor
    """Mean process reward (its sum, where the reward is of the sequence), on the scale of the rollout's own."""


def batch_advantages(
    scored: ScoredBatch, algorithm: AlgorithmSection, outcome_rewards: Tensor | None = None, values: Sequence[Tensor] = ()
) -> BatchAdvantages:
    """Advantages of the whole batch at once: baselines, normalisation and whitening mix siblings and groups.

    `outcome_rewards`, one per rollout, stand in for the verifier's where a KL was taken off them. `values` are the critic's, one tensor
    per rollout (PPO). Computed in float64.
    """
    rollouts = scored.batch.rollouts
    # One prompt token stands for the prompt: advantages look at responses only.
    is_response = token_rows([[0]] * len(rollouts), [verified.rollout.response_ids for verified in rollouts], pad_id=0).is_response
    raw = response_matrix(scored.process_rewards, is_response, dtype=torch.float64)
    sequence = algorithm.granularity == "sequence"
    earned = sequence_process_rewards(raw, is_response) if sequence else raw
    rewards = Rewards(
        process=normalised(earned, is_response, algorithm),
        rewarded=last_token(is_response) if sequence else is_response,
        outcome=verifier_rewards(scored) if outcome_rewards is None else outcome_rewards,
        is_response=is_response,
        group_ids=torch.tensor([verified.rollout.group_id for verified in rollouts]),
    )
    if algorithm.needs_critic:
        estimated = from_values(rewards, values, algorithm)
    else:
        greedy = greedy_rewards(scored, algorithm, normalisation_scales(earned, is_response, algorithm)) if scored.batch.baselines else None
        estimated = from_rewards(rewards, algorithm, greedy)
    result, targets = estimated.result, estimated.value_targets
    metrics = _metrics(result, is_response) | {"process_return_largest": float(largest_return(earned, is_response))}
    return BatchAdvantages(
        per_rollout=[row.float() for row in ragged(result.advantages, is_response)],
        metrics=metrics,
        value_targets=[] if targets is None else [row.float() for row in ragged(targets, is_response)],
    )


def from_values(rewards: Rewards, values: Sequence[Tensor], algorithm: AlgorithmSection) -> Estimate:
    """PPO: generalised advantage estimation on the sum of both rewards. Raises ValueError without values."""
    if not values:
        raise ValueError('algorithm.estimator = "ppo" needs the critic\'s values of the batch: pass one tensor per rollout')
    is_response, discount, decay = rewards.is_response, algorithm.outcome_discount, algorithm.trace_decay
    token_rewards = ppo_token_rewards(
        rewards.process.where(rewards.rewarded, 0.0),
        rewards.outcome,
        is_response,
        process_weight=algorithm.process_weight,
        outcome_weight=algorithm.outcome_weight,
    )
    value = response_matrix(values, is_response, dtype=torch.float64)
    estimated = generalised_advantages(token_rewards, value, is_response, discount=discount, trace_decay=decay)
    whitened = masked_whiten(estimated.advantages, is_response) if algorithm.whiten_advantages else estimated.advantages
    # The estimate is linear in the rewards, and each source's part of it is its return, discounted by gamma lambda.
    sources = reinforce(rewards, Discounts(process=discount * decay, outcome=discount * decay))
    return Estimate(result=AdvantageResult(advantages=whitened, sources=sources), value_targets=estimated.value_targets)


def from_rewards(rewards: Rewards, algorithm: AlgorithmSection, greedy: GreedyRewards | None = None) -> Estimate:
    """Every estimator without a critic."""
    result = advantages(
        estimate(rewards, algorithm, greedy),
        rewards.is_response,
        process_weight=algorithm.process_weight,
        outcome_weight=algorithm.outcome_weight,
        whiten=algorithm.whiten_advantages,
    )
    return Estimate(result=result)


def estimate(rewards: Rewards, algorithm: AlgorithmSection, greedy: GreedyRewards | None = None) -> SourceReturns:
    discounts = Discounts(process=algorithm.process_discount, outcome=algorithm.outcome_discount)
    match algorithm.estimator:
        case "rloo":
            return rloo(rewards, discounts, loo=algorithm.loo)
        case "reinforce":
            return reinforce(rewards, discounts)
        case "grpo":
            return grpo(rewards, discounts)
        case "remax":
            if greedy is None:
                raise ValueError('algorithm.estimator = "remax" needs a greedy baseline per group, but the batch has none: issue one')
            return remax(rewards, discounts, greedy_outcome=greedy.outcome, greedy_process_mean=greedy.process_mean)
        case "prm_value":
            return prm_value(rewards, discounts)
        case "ppo":
            raise ValueError("PPO estimates from values: see from_values")


def greedy_rewards(scored: ScoredBatch, algorithm: AlgorithmSection, scales: Tensor) -> GreedyRewards:
    """Each rollout's greedy baseline, its process rewards divided by the rollout's own scale.

    No KL is taken off its outcome: a baseline may be any number that the sampled tokens do not change. Raises ValueError for a
    group without one.
    """
    outcomes: dict[int, float] = {}
    means: dict[int, float] = {}
    for verified, rewards in zip(scored.batch.baselines, scored.baseline_process_rewards, strict=True):
        values = rewards.astype(np.float64)
        outcomes[verified.rollout.group_id] = verified.outcome_reward
        means[verified.rollout.group_id] = float(values.sum() if algorithm.granularity == "sequence" else values.mean())
    ids = [verified.rollout.group_id for verified in scored.batch.rollouts]
    if missing := sorted(set(ids) - outcomes.keys()):
        raise ValueError(f"group {missing[0]} has no greedy baseline, but others of its batch have one: drop it before batching")
    return GreedyRewards(
        outcome=torch.tensor([outcomes[name] for name in ids], dtype=torch.float64),
        process_mean=torch.tensor([means[name] for name in ids], dtype=torch.float64) / scales,
    )


def normalised(process_rewards: Tensor, is_response: Tensor, algorithm: AlgorithmSection) -> Tensor:
    return process_rewards / normalisation_scales(process_rewards, is_response, algorithm)[:, None]


def normalisation_scales(process_rewards: Tensor, is_response: Tensor, algorithm: AlgorithmSection) -> Tensor:
    """What each rollout's process rewards are divided by."""
    floor, count = algorithm.normalisation_floor, len(process_rewards)
    match algorithm.process_normalisation:
        case "batch_norm":
            return normalisation_scale(process_rewards, is_response, floor=floor).expand(count)
        case "per_rank":
            chunks = torch.tensor(chunk_of_each(count, min(algorithm.normalisation_chunks, count)))
            return chunk_scales(process_rewards, is_response, chunks, floor=floor)
        case "none":
            return process_rewards.new_ones(count)


def verifier_rewards(scored: ScoredBatch) -> Tensor:
    return torch.tensor([verified.outcome_reward for verified in scored.batch.rollouts], dtype=torch.float64)


def _metrics(result: AdvantageResult, is_response: Tensor) -> dict[str, float]:
    """Advantages, and each source's part of them before its weight."""
    metrics = {"advantage_max": float(result.advantages[is_response].abs().max())}
    sources = {"advantage": result.advantages, "process_return": result.sources.process, "outcome_return": result.sources.outcome}
    for name, values in sources.items():
        inside = values[is_response]
        metrics[f"{name}_mean"] = float(inside.mean())
        metrics[f"{name}_std"] = float(inside.std())
    return metrics
