"""The learner's share of a train step."""

import numpy as np
import pytest
import torch

from oprime.core.token_rows import token_rows
from oprime.core.types import Batch, ScoredBatch
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer, batch_advantages
from plain_engine import PlainEngine
from tiny_models import batch_of, tiny_model


def trainer(**settings: object) -> tuple[PolicyTrainer, PlainEngine]:
    section = LearnerSection.model_validate({"learning_rate": 1e-3, "micro_batch_rollouts": 5, **settings})
    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    return PolicyTrainer(engine, AlgorithmSection(), section, pad_id=0, total_steps=10), engine


def scored(batch: Batch) -> ScoredBatch:
    """Right rollouts get +0.1 per token, wrong ones -0.1."""
    rewards = tuple(np.full(len(one.rollout.response_ids), 0.2 * one.outcome_reward - 0.1, dtype=np.float32) for one in batch.rollouts)
    return ScoredBatch(batch=batch, process_rewards=rewards, prm_version=1)


def logprob_sums(engine: PlainEngine, batch: Batch) -> torch.Tensor:
    rollouts = [one.rollout for one in batch.rollouts]
    rows = token_rows([one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts], pad_id=0)
    return engine.logprobs(rows).sum(1)


def test_a_step_makes_right_responses_likelier_and_wrong_ones_less_so() -> None:
    policy, engine = trainer()
    batch = batch_of(1)
    right = torch.tensor([one.outcome_reward > 0.5 for one in batch.rollouts])
    before = logprob_sums(engine, batch)
    policy.process(scored(batch))
    change = logprob_sums(engine, batch) - before
    assert change[right].mean() > 0 > change[~right].mean()


def test_advantages_are_white_over_the_tokens_of_the_whole_batch() -> None:
    result = batch_advantages(scored(batch_of(1)), AlgorithmSection())
    every = torch.cat(result.per_rollout)
    assert float(every.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(every.std()) == pytest.approx(1.0, abs=1e-4)


def test_without_process_weight_the_process_rewards_do_not_matter() -> None:
    algorithm = AlgorithmSection(process_weight=0.0)
    batch = batch_of(1)
    flat = ScoredBatch(batch=batch, process_rewards=tuple(0 * one for one in scored(batch).process_rewards), prm_version=1)
    for one, other in zip(
        batch_advantages(scored(batch), algorithm).per_rollout, batch_advantages(flat, algorithm).per_rollout, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("micro_batch_rollouts", [1, 4, 12])
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_micro_batches_change_nothing(micro_batch_rollouts: int, updates_per_batch: int) -> None:
    batch = scored(batch_of(1))
    whole, whole_engine = trainer(micro_batch_rollouts=100, updates_per_batch=updates_per_batch)
    split, split_engine = trainer(micro_batch_rollouts=micro_batch_rollouts, updates_per_batch=updates_per_batch)
    one, other = whole.process(batch), split.process(batch)
    assert other["policy_loss"] == pytest.approx(one["policy_loss"], abs=1e-6)
    assert other["policy_gradient_norm"] == pytest.approx(one["policy_gradient_norm"], rel=1e-4)
    for (name, first), (_, second) in zip(whole_engine.weights(), split_engine.weights(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0, msg=name)


def test_metrics_tell_the_mismatch_between_sampler_and_learner() -> None:
    policy, _ = trainer()
    batch = batch_of(1)
    metrics = policy.process(scored(batch))
    # The test's behaviour log-probs are -1 for every token; the random model's are about -log(54).
    fresh = torch.cat([values[values != 0] for values in _all_logprobs(batch)])
    assert metrics["mismatch_kl_k1_nats"] == pytest.approx(float((-1 - fresh).mean()), abs=1e-4)
    assert metrics["ratio_outside_share"] > 0.5
    assert metrics["trained_tokens"] == sum(len(one.rollout.response_ids) for one in batch.rollouts)


def _all_logprobs(batch: Batch) -> torch.Tensor:
    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    rollouts = [one.rollout for one in batch.rollouts]
    return engine.logprobs(token_rows([one.prompt_ids for one in rollouts], [one.response_ids for one in rollouts], pad_id=0))


def test_staleness_is_counted_from_the_oldest_token() -> None:
    policy, _ = trainer()
    metrics = policy.process(scored(batch_of(3, version=1)))
    assert metrics["staleness_max"] == 1.0


def test_warm_up_scales_the_learning_rate_of_a_step() -> None:
    policy, _ = trainer(warmup_steps=4)
    assert policy.process(scored(batch_of(1)))["learning_rate"] == pytest.approx(0.25e-3)
    assert policy.process(scored(batch_of(2)))["learning_rate"] == pytest.approx(0.5e-3)
