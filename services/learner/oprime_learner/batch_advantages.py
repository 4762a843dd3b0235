"""Advantages of a whole batch, by the estimator that the settings choose. The same on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oprime.core.advantage import AdvantageResult, Discounts, Rewards, SourceReturns, advantages, grpo, prm_value, reinforce, rloo
from oprime.core.batching import chunk_of_each
from oprime.core.critic import generalised_advantages, ppo_token_rewards
from oprime.core.implicit_reward import largest_return, normalise_by_largest_return, normalise_each_chunk, sequence_process_rewards
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
    estimated = from_values(rewards, values, algorithm) if algorithm.needs_critic else from_rewards(rewards, algorithm)
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


def from_rewards(rewards: Rewards, algorithm: AlgorithmSection) -> Estimate:
    """Every estimator without a critic."""
    result = advantages(
        estimate(rewards, algorithm),
        rewards.is_response,
        process_weight=algorithm.process_weight,
        outcome_weight=algorithm.outcome_weight,
        whiten=algorithm.whiten_advantages,
    )
    return Estimate(result=result)


def estimate(rewards: Rewards, algorithm: AlgorithmSection) -> SourceReturns:
    discounts = Discounts(process=algorithm.process_discount, outcome=algorithm.outcome_discount)
    match algorithm.estimator:
        case "rloo":
            return rloo(rewards, discounts, loo=algorithm.loo)
        case "reinforce":
            return reinforce(rewards, discounts)
        case "grpo":
            return grpo(rewards, discounts)
        case "prm_value":
            return prm_value(rewards, discounts)
        case "ppo":
            raise ValueError("PPO estimates from values: see from_values")


def normalised(process_rewards: Tensor, is_response: Tensor, algorithm: AlgorithmSection) -> Tensor:
    floor = algorithm.normalisation_floor
    match algorithm.process_normalisation:
        case "batch_norm":
            return normalise_by_largest_return(process_rewards, is_response, floor=floor)
        case "per_rank":
            chunks = min(algorithm.normalisation_chunks, len(process_rewards))
            return normalise_each_chunk(
                process_rewards, is_response, torch.tensor(chunk_of_each(len(process_rewards), chunks)), floor=floor
            )
        case "none":
            return process_rewards


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
