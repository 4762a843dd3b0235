"""Advantages of a whole batch, by the estimator that the settings choose. The same on every rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.advantage import AdvantageResult, Discounts, Rewards, SourceReturns, advantages, grpo, prm_value, reinforce, rloo
from oprime.core.batching import chunk_of_each
from oprime.core.implicit_reward import largest_return, normalise_by_largest_return, normalise_each_chunk, sequence_process_rewards
from oprime.core.masked import last_token
from oprime.core.token_rows import ragged, response_matrix, token_rows
from oprime.core.types import ScoredBatch
from oprime.runtime.settings import AlgorithmSection


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdvantages:
    per_rollout: list[Tensor]
    """One advantage per response token, in the order of `batch.rollouts`."""
    metrics: dict[str, float]


def batch_advantages(scored: ScoredBatch, algorithm: AlgorithmSection, outcome_rewards: Tensor | None = None) -> BatchAdvantages:
    """Advantages of the whole batch at once: baselines, normalisation and whitening mix siblings and groups.

    `outcome_rewards`, one per rollout, stand in for the verifier's where a KL was taken off them. Computed in float64.
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
    result = advantages(
        estimate(rewards, algorithm),
        is_response,
        process_weight=algorithm.process_weight,
        outcome_weight=algorithm.outcome_weight,
        whiten=algorithm.whiten_advantages,
    )
    metrics = _metrics(result, is_response) | {"process_return_largest": float(largest_return(earned, is_response))}
    return BatchAdvantages(per_rollout=[row.float() for row in ragged(result.advantages, is_response)], metrics=metrics)


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
