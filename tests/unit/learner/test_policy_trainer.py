"""The learner's share of a train step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from oprime.core.advantage import GreedyRewards, Rewards
from oprime.core.token_rows import ragged, response_matrix, trained_tokens_alone
from oprime.core.types import Batch, ProcessRewards, VerifiedGroup
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import batch_advantages, verifier_rewards
from oprime_learner.config import LearnerSection
from oprime_learner.parts import parts_of
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.samples import write_learned
from plain_engine import PlainEngine, on_ranks, ranked_engines
from rollouts import CONTENTS, content, moments_of, rows_of
from tiny_models import batch_in_turns, batch_of, plain_logprobs, tiny_model, verified_rollout

ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic, which Adam would blow up to a full step."""


def trainer(
    algorithm: AlgorithmSection | None = None, *, engine: PlainEngine | None = None, **settings: object
) -> tuple[PolicyTrainer, PlainEngine]:
    section = LearnerSection.model_validate({"learning_rate": 1e-3, "micro_batch_rollouts": 5, **settings})
    engine = engine or PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), adam_eps=ADAM_EPS)
    # A reference of its own weights, so that the KL is not 0.
    reference = FrozenModel(tiny_model(seed=1), chunk_tokens=7) if algorithm and algorithm.kl_coefficient else None
    policy = PolicyTrainer(engine, algorithm or AlgorithmSection(), section, CONTENTS, pad_id=0, total_steps=10, reference=reference)
    return policy, engine


def scored(batch: Batch) -> tuple[Batch, ProcessRewards]:
    """Right responses get +0.1 per token, wrong ones -0.1, greedy baselines too."""
    rollouts, baselines = (
        [np.full(one.rollout.trained_tokens, 0.2 * one.outcome_reward - 0.1, dtype=np.float32) for one in verified]
        for verified in (batch.rollouts, batch.baselines)
    )
    return batch, ProcessRewards(rollouts=rollouts, baselines=baselines)


def batch_for(algorithm: AlgorithmSection) -> tuple[Batch, ProcessRewards]:
    return scored(batch_of(1, baselines=algorithm.needs_greedy_baseline))


def logprob_sums(engine: PlainEngine, batch: Batch) -> torch.Tensor:
    return engine.logprobs(rows_of(batch)).sum(1)


def test_a_step_makes_right_responses_likelier_and_wrong_ones_less_so() -> None:
    policy, engine = trainer()
    batch = batch_of(1)
    right = torch.tensor([one.outcome_reward > 0.5 for one in batch.rollouts])
    before = logprob_sums(engine, batch)
    policy.process(*scored(batch))
    change = logprob_sums(engine, batch) - before
    assert change[right].mean() > 0 > change[~right].mean()


def test_advantages_are_white_over_the_tokens_of_the_whole_batch() -> None:
    result = batch_advantages(*scored(batch_of(1)), AlgorithmSection())
    every = torch.cat(result.per_rollout)
    assert float(every.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(every.std()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("micro_batch_rollouts", [1, 4, 12])
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_micro_batches_change_nothing(micro_batch_rollouts: int, updates_per_batch: int) -> None:
    batch = scored(batch_of(1))
    whole, whole_engine = trainer(micro_batch_rollouts=100, updates_per_batch=updates_per_batch)
    split, split_engine = trainer(micro_batch_rollouts=micro_batch_rollouts, updates_per_batch=updates_per_batch)
    one, other = whole.process(*batch), split.process(*batch)
    assert other["policy_loss"] == pytest.approx(one["policy_loss"], abs=1e-6)
    assert other["policy_gradient_norm"] == pytest.approx(one["policy_gradient_norm"], rel=1e-4)
    for (name, first), (_, second) in zip(whole_engine.weights(), split_engine.weights(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0, msg=name)


ALGORITHMS = [
    {"estimator": "rloo", "loo": "released"},
    {"estimator": "reinforce"},
    {"estimator": "grpo"},
    {"estimator": "prm_value"},
    {"estimator": "remax"},
    {"estimator": "remax", "process_weight": 0.0},
    {"estimator": "remax", "granularity": "sequence", "process_normalisation": "per_rank", "normalisation_chunks": 5},
    {"process_weight": 0.0},
    {"estimator": "grpo", "process_weight": 0.0},
    {"granularity": "sequence"},
    {"process_normalisation": "per_rank", "normalisation_chunks": 3},
    {"process_normalisation": "none"},
    {"policy_loss": "cispo"},
    {"policy_loss": "gspo"},
    {"dual_clip": 3.0, "clip_high": 0.28},
    {"correction": "sequence"},
    {"correction": "band"},
    {"correction": "none"},
    {"correction": "geometric_band", "geometric_low": 0.1, "geometric_high": 10.0},
    {"kl_coefficient": 0.1, "kl_estimator": "k2"},
    {"kl_coefficient": 0.1, "kl_in": "reward", "kl_estimator": "k1"},
    {"aggregation": "sequences"},
    {"aggregation": "groups"},
    {"aggregation": "constant", "constant_tokens": 16, "estimator": "grpo", "divide_by_std": False, "whiten_advantages": False},
    {"entropy_coefficient": 0.1},
]


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_with_every_algorithm_micro_batches_change_nothing(options: dict[str, object], updates_per_batch: int) -> None:
    algorithm = AlgorithmSection.model_validate(options)
    batch = batch_for(algorithm)
    whole, whole_engine = trainer(algorithm, micro_batch_rollouts=100, updates_per_batch=updates_per_batch)
    split, split_engine = trainer(algorithm, micro_batch_rollouts=1, updates_per_batch=updates_per_batch)
    one, other = whole.process(*batch), split.process(*batch)
    assert sorted(one) == sorted(other)
    assert {name: other[name] for name in one} == pytest.approx(one, rel=1e-3, abs=2e-5)
    for (name, first), (_, second) in zip(whole_engine.weights(), split_engine.weights(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
def test_with_every_algorithm_ranks_change_nothing(options: dict[str, object]) -> None:
    algorithm = AlgorithmSection.model_validate(options)
    batch = batch_for(algorithm)
    alone, engine = trainer(algorithm, updates_per_batch=3)
    expected = alone.process(*batch)

    engines = ranked_engines([TokenLogprobModel(tiny_model(), chunk_tokens=7) for _ in range(2)], adam_eps=ADAM_EPS)
    ranks = [trainer(algorithm, engine=own, updates_per_batch=3)[0] for own in engines]
    for rank, metrics in enumerate(on_ranks([lambda one=one: one.process(*batch) for one in ranks])):
        assert rank == 1 or sorted(metrics) == sorted(expected)
        assert metrics == pytest.approx({name: expected[name] for name in metrics}, rel=1e-3, abs=2e-5)
        weights = dict(engines[rank].weights())
        for name, tensor in engine.weights():
            torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
@pytest.mark.parametrize("estimator", ["rloo", "reinforce", "grpo", "remax", "prm_value"])
def test_a_kl_coefficient_acts_under_every_estimator(estimator: str, kl_in: str) -> None:
    free = AlgorithmSection.model_validate({"estimator": estimator})
    held = free.model_copy(update={"kl_coefficient": 0.5, "kl_in": kl_in})
    batch = batch_for(free)
    engines = []
    for algorithm in (free, held):
        policy, engine = trainer(algorithm)
        metrics = policy.process(*batch)
        assert ("reference_kl_nats" in metrics) == (algorithm is held)
        engines.append(dict(engine.weights()))
    apart = max(float((engines[0][name] - engines[1][name]).abs().max()) for name in engines[0])
    assert apart > 1e-5


def test_in_the_reward_the_kl_of_each_rollout_is_its_own() -> None:
    algorithm = AlgorithmSection(kl_coefficient=0.5, kl_in="reward", kl_estimator="k1")
    policy, engine = trainer(algorithm)
    batch = batch_of(1)
    reference = PlainEngine(TokenLogprobModel(tiny_model(seed=1), chunk_tokens=7))
    kl = logprob_sums(engine, batch) - logprob_sums(reference, batch)
    expected = torch.tensor([one.outcome_reward for one in batch.rollouts]) - 0.5 * kl
    parts = parts_of(batch, policy._fetcher, engine, policy._settings)
    rewards, _ = policy._outcome_rewards(batch, parts, [policy._given(part, 1) for part in parts])
    torch.testing.assert_close(rewards.float(), expected, atol=1e-4, rtol=0)


def test_an_entropy_bonus_raises_the_entropy() -> None:
    # Without rewards there is nothing else to learn from.
    batch = batch_of(1)
    flat = ProcessRewards(rollouts=[np.zeros(one.rollout.trained_tokens, dtype=np.float32) for one in batch.rollouts])
    quiet = {"outcome_weight": 0.0, "whiten_advantages": False}
    for coefficient, rises in ((0.0, False), (0.1, True)):
        policy, _ = trainer(AlgorithmSection.model_validate(quiet | {"entropy_coefficient": coefficient}))
        first, second = (policy.process(batch, flat)["policy_entropy_nats"] for _ in range(2))
        assert (second > first + 1e-6) == rises
        assert rises or second == pytest.approx(first, abs=1e-6)


def test_the_entropy_that_is_reported_is_that_of_the_distributions() -> None:
    policy, _ = trainer()
    batch = batch_of(1)
    rows = rows_of(batch)
    logits = tiny_model()(input_ids=rows.input_ids, attention_mask=rows.attention_mask.long()).logits.detach().double()
    entropy = torch.distributions.Categorical(logits=logits).entropy()[:, :-1][rows.is_trained[:, 1:]].mean()
    assert policy.process(*scored(batch))["policy_entropy_nats"] == pytest.approx(float(entropy), abs=1e-5)


def test_a_negative_entropy_coefficient_is_refused() -> None:
    with pytest.raises(ValueError, match="entropy_coefficient"):
        AlgorithmSection.model_validate({"entropy_coefficient": -0.1})


def test_a_kl_without_a_reference_is_refused() -> None:
    section = LearnerSection()
    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    with pytest.raises(ValueError, match=r"kl_coefficient \(0.1\) needs a reference model"):
        PolicyTrainer(engine, AlgorithmSection(kl_coefficient=0.1), section, CONTENTS, pad_id=0, total_steps=1)


def test_granularity_and_normalisation_change_the_advantages() -> None:
    batch = scored(batch_of(1))
    by_setting = {
        name: torch.cat(batch_advantages(*batch, AlgorithmSection.model_validate(options)).per_rollout)
        for name, options in {
            "default": {}, "sequence": {"granularity": "sequence"}, "per rank": {"process_normalisation": "per_rank"},
            "none": {"process_normalisation": "none"}, "released": {"loo": "released"},
        }.items()
    }  # fmt: skip
    for name, values in by_setting.items():
        assert name in ("default", "released") or not torch.allclose(values, by_setting["default"], atol=1e-3), name


def test_a_reward_of_the_sequence_is_normalised_as_such() -> None:
    # Token rewards -1, 1, 1 return at most 2 and their sum is 1: as one reward of the sequence it is divided by 1, not by 2.
    group = VerifiedGroup(group_id=1, rollouts=tuple(verified_rollout(1, index, 0.5, [9, 9, 9]) for index in range(2)))
    batch = Batch(step=1, groups=(group,))
    rewards = ProcessRewards(rollouts=[np.array([-1, 1, 1], dtype=np.float32), np.zeros(3, dtype=np.float32)])
    algorithm = AlgorithmSection(granularity="sequence", estimator="reinforce", outcome_weight=0, whiten_advantages=False)
    result = batch_advantages(batch, rewards, algorithm)
    assert result.per_rollout[0].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert result.metrics["process_return_largest"] == pytest.approx(1.0)
    by_token = batch_advantages(batch, rewards, algorithm.model_copy(update={"granularity": "token"}))
    assert by_token.per_rollout[0].tolist() == pytest.approx([0.5, 1, 0.5], abs=1e-5)


def test_metrics_tell_the_mismatch_between_sampler_and_learner() -> None:
    policy, _ = trainer()
    batch = batch_of(1)
    metrics = policy.process(*scored(batch))
    # The test's behaviour log-probs are -1 for every token; the random model's are about -log(54).
    fresh = torch.cat([values[values != 0] for values in _all_logprobs(batch)])
    assert metrics["mismatch_kl_k1_nats"] == pytest.approx(float((-1 - fresh).mean()), abs=1e-4)
    assert metrics["ratio_outside_share"] > 0.5
    assert metrics["trained_tokens"] == sum(one.rollout.trained_tokens for one in batch.rollouts)


def _all_logprobs(batch: Batch) -> torch.Tensor:
    return PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7)).logprobs(rows_of(batch))


@pytest.mark.parametrize("micro_batch_rollouts", [1, 5])
def test_of_rollouts_in_turns_the_models_own_tokens_are_learned_from_and_no_others(micro_batch_rollouts: int) -> None:
    # Without correction the gradient of the first optimizer step is that of -mean(A log pi) over the trained tokens.
    algorithm = AlgorithmSection(correction="none")
    policy, _ = trainer(algorithm, micro_batch_rollouts=micro_batch_rollouts)
    batch, rewards = scored(batch_in_turns(1))
    metrics = policy.process(batch, rewards)
    model = tiny_model()
    logprobs = torch.cat([plain_logprobs(model, content(one)) for one in batch.rollouts])
    (-torch.cat(batch_advantages(batch, rewards, algorithm).per_rollout) * logprobs).mean().backward()
    norm = sum(parameter.grad.square().sum() for parameter in model.parameters() if parameter.grad is not None) ** 0.5
    assert metrics["policy_gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["policy_surprisal_nats"] == pytest.approx(-logprobs.mean().item(), rel=1e-5)
    # The behaviour log-probs are -1.
    assert metrics["mismatch_kl_k1_nats"] == pytest.approx((-1 - logprobs).mean().item(), abs=1e-4)
    assert metrics["trained_tokens"] == len(logprobs)


def test_staleness_is_counted_from_the_oldest_token() -> None:
    policy, _ = trainer()
    metrics = policy.process(*scored(batch_of(3, version=1)))
    assert metrics["staleness_max"] == 1.0


def test_warm_up_scales_the_learning_rate_of_a_step() -> None:
    policy, _ = trainer(warmup_steps=4)
    assert policy.process(*scored(batch_of(1)))["learning_rate"] == pytest.approx(0.25e-3)
    assert policy.process(*scored(batch_of(2)))["learning_rate"] == pytest.approx(0.5e-3)


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce", "remax", "prm_value", "ppo"])
@pytest.mark.parametrize("whiten", [True, False])
def test_a_run_without_process_weight_needs_no_prm_whatever_its_estimator(estimator: str, whiten: bool) -> None:
    algorithm = AlgorithmSection.model_validate({"estimator": estimator, "process_weight": 0.0, "whiten_advantages": whiten})
    assert not algorithm.needs_prm
    assert AlgorithmSection.model_validate({"estimator": estimator, "process_weight": 0.1}).needs_prm
    batch, process = batch_for(algorithm)
    lengths = [one.rollout.trained_tokens for one in batch.rollouts]
    values = [torch.linspace(0, 1, length) for length in lengths] if algorithm.needs_critic else []
    result = batch_advantages(batch, ProcessRewards(), algorithm, values=values)
    assert [name for name in result.metrics if name.startswith("process")] == []

    # What any rewards would give, weighted by 0.
    is_trained = trained_tokens_alone(lengths)
    group_ids = torch.tensor([one.rollout.group_id for one in batch.rollouts])
    greedy = None
    if algorithm.needs_greedy_baseline:
        outcomes = {one.rollout.group_id: one.outcome_reward for one in batch.baselines}
        greedy = GreedyRewards(
            outcome=torch.tensor([outcomes[int(group)] for group in group_ids], dtype=torch.float64),
            process_mean=torch.full((len(lengths),), 0.3, dtype=torch.float64),
        )
    rewards = Rewards(
        process=response_matrix(process.rollouts, is_trained, dtype=torch.float64),
        rewarded=is_trained,
        outcome=verifier_rewards(batch),
        is_trained=is_trained,
        group_ids=group_ids,
        greedy=greedy,
        values=response_matrix(values, is_trained, dtype=torch.float64) if algorithm.needs_critic else None,
    )
    weighted = algorithm.chosen_estimator.estimate(rewards, algorithm.choices)
    if algorithm.whiten_advantages:
        weighted = weighted.whitened(is_trained, moments_of(weighted.advantages, is_trained))
    for mine, theirs in zip(result.per_rollout, ragged(weighted.advantages, is_trained), strict=True):
        assert torch.equal(mine, theirs.float())


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_the_first_groups_taught_is_kept_token_by_token(ranks: int, tmp_path: Path) -> None:
    batch = batch_of(1)
    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    before = ragged(engine.logprobs(rows_of(batch)), rows_of(batch).is_trained)
    expected = batch_advantages(*scored(batch), AlgorithmSection()).per_rollout
    kept = len(batch.groups[0].rollouts) + len(batch.groups[1].rollouts)

    engines = ranked_engines([TokenLogprobModel(tiny_model(), chunk_tokens=7) for _ in range(ranks)], adam_eps=ADAM_EPS)
    policies = [trainer(engine=own, sampled_groups=2, micro_batch_rollouts=2)[0] for own in engines]
    on_ranks([lambda one=one: one.process(*scored(batch)) for one in policies])
    learned, *others = [policy.learned for policy in policies]
    assert all(other == [] for other in others)
    assert len(learned) == kept
    for one, advantages, logprobs in zip(learned, expected, before, strict=False):
        assert one.advantages == pytest.approx(advantages.tolist(), abs=1e-6)
        assert one.policy_logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)

    write_learned(tmp_path, batch, learned)
    lines = [json.loads(line) for line in (tmp_path / "learned-000001.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["group_id"]) for line in lines] == [(1, group.group_id) for group in batch.groups[:2]]
    assert lines[1]["rollouts"][0] == {
        "index": 0,
        "advantages": learned[len(batch.groups[0].rollouts)].advantages,
        "policy_logprobs": learned[len(batch.groups[0].rollouts)].policy_logprobs,
    }
    write_learned(tmp_path / "none", batch, [])
    assert not (tmp_path / "none").exists()
