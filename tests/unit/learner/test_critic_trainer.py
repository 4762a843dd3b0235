"""PPO's share of a train step: values, advantages from them, and the critic's own update."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import slow_reference as slow
from oprime.core.token_rows import ragged
from oprime.core.types import Batch, ProcessRewards, VerifiedGroup
from oprime.lm.batches import RowFetcher
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import batch_advantages
from oprime_learner.config import CriticSection, LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.policy_trainer import PolicyTrainer
from plain_engine import PlainEngine, on_ranks, ranked_engines
from random_batches import Case, cases
from rollouts import CONTENTS, rows_of
from tiny_models import batch_in_turns, batch_of, tiny_model, verified_rollout

ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic, which Adam would blow up to a full step."""
PPO = AlgorithmSection.model_validate({"estimator": "ppo", "trace_decay": 0.9})


@dataclass
class Learner:
    """Policy and critic of one rank."""

    policy: PlainEngine
    critic: PlainEngine
    trainer: PolicyTrainer

    def weights(self) -> dict[str, torch.Tensor]:
        return {f"{name}/{key}": tensor for name in ("policy", "critic") for key, tensor in getattr(self, name).weights()}


def learner(
    algorithm: AlgorithmSection = PPO, engines: tuple[PlainEngine, PlainEngine] | None = None, *, clip: float = 0.2, **section: object
) -> Learner:
    shared = {"learning_rate": 1e-3, "micro_batch_rollouts": 5, **section}
    policy, critic = engines or (
        PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), adam_eps=ADAM_EPS),
        PlainEngine(TokenValueModel(tiny_model()), adam_eps=ADAM_EPS),
    )
    trained = CriticTrainer(critic, algorithm, CriticSection.model_validate({**shared, "value_clip": clip}), total_steps=10)
    trainer = PolicyTrainer(policy, algorithm, LearnerSection.model_validate(shared), CONTENTS, pad_id=0, total_steps=10, critic=trained)
    return Learner(policy, critic, trainer)


def scored(batch: Batch) -> tuple[Batch, ProcessRewards]:
    """Right rollouts get +0.1 per token, wrong ones -0.1."""
    rewards = [np.full(one.rollout.trained_tokens, 0.2 * one.outcome_reward - 0.1, dtype=np.float32) for one in batch.rollouts]
    return batch, ProcessRewards(rollouts=rewards)


def assert_same(one: Learner, other: Learner, *, tolerance: float = 1e-5) -> None:
    ours, theirs = one.weights(), other.weights()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=tolerance, rtol=0, msg=name)


ALGORITHMS = [
    {},
    {"process_weight": 0.0},
    {"trace_decay": 1.0, "process_discount": 0.95, "outcome_discount": 0.95},
    {"granularity": "sequence"},
    {"aggregation": "groups"},
    {"aggregation": "sequences", "whiten_advantages": False},
]


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_micro_batches_change_neither_policy_nor_critic(options: dict[str, object], updates_per_batch: int) -> None:
    algorithm = AlgorithmSection.model_validate({"estimator": "ppo", "trace_decay": 0.9} | options)
    # A tight clip, so that the second and third optimizer step of a batch feel it.
    whole, split = (learner(algorithm, clip=0.01, micro_batch_rollouts=rows, updates_per_batch=updates_per_batch) for rows in (100, 1))
    for step in (1, 2):
        one, other = (loop.trainer.process(*scored(batch_of(step))) for loop in (whole, split))
        assert {name: other[name] for name in one} == pytest.approx(one, rel=1e-3, abs=2e-5)
    assert (one["critic_clipped_tokens_ratio"] > 0) == (updates_per_batch > 1)
    assert_same(whole, split)


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
def test_ranks_change_neither_policy_nor_critic(options: dict[str, object]) -> None:
    algorithm = AlgorithmSection.model_validate({"estimator": "ppo", "trace_decay": 0.9} | options)
    alone = learner(algorithm, updates_per_batch=3)
    models = [TokenLogprobModel(tiny_model(), chunk_tokens=7) for _ in range(2)]
    engines = zip(
        ranked_engines(models, adam_eps=ADAM_EPS),
        ranked_engines([TokenValueModel(tiny_model()) for _ in range(2)], adam_eps=ADAM_EPS),
        strict=True,
    )
    ranks = [learner(algorithm, pair, updates_per_batch=3) for pair in engines]
    for step in (1, 2):
        expected = alone.trainer.process(*scored(batch_of(step)))
        first, second = on_ranks([lambda one=one, step=step: one.trainer.process(*scored(batch_of(step))) for one in ranks])
        assert sorted(first) == sorted(expected)
        for metrics in (first, second):
            assert metrics == pytest.approx({name: expected[name] for name in metrics}, rel=1e-3, abs=2e-5)
    for one in ranks:
        assert_same(alone, one)


@settings(max_examples=40)
@given(
    case=cases(numbers=2),
    discount=st.sampled_from([0.9, 1.0]),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
    weights=st.sampled_from([(0.0, 1.0), (1.0, 1.0), (2.0, 0.5)]),
    granularity=st.sampled_from(["token", "sequence"]),
    whiten=st.booleans(),
)
def test_a_batchs_advantages_and_targets_equal_the_slow_ones(
    case: Case, discount: float, decay: float, weights: tuple[float, float], granularity: str, whiten: bool
) -> None:
    algorithm = AlgorithmSection.model_validate(
        {"estimator": "ppo", "process_discount": discount, "outcome_discount": discount, "trace_decay": decay}
        | {"process_weight": weights[0], "outcome_weight": weights[1], "granularity": granularity, "whiten_advantages": whiten}
        | {"whitening_guard": 0.0}
    )
    order = sorted(range(len(case.lengths)), key=lambda i: case.group_ids[i])
    case = case.reordered(order)
    rewards, values = case.numbers
    result = batch_advantages(*scored_case(case, rewards), algorithm, values=[torch.tensor(row, dtype=torch.float64) for row in values])
    process = slow.normalised(slow.on_last_token(rewards) if granularity == "sequence" else rewards, 1e-3)
    expected: list[list[float]] = []
    for i, (row, value) in enumerate(zip(process, values, strict=True)):
        token_rewards = [weights[0] * reward for reward in row]
        token_rewards[-1] += weights[1] * case.outcomes[i]
        expected.append(slow.gae(token_rewards, value, discount, decay))
        targets = [a + v for a, v in zip(expected[i], value, strict=True)]
        assert result.value_targets[i].tolist() == pytest.approx(targets, abs=1e-4)
    # Equal advantages divide rounding noise by the smallest deviation that whitening knows.
    flat = [value for row in expected for value in row]
    if not whiten or max(flat) - min(flat) > 1e-2:
        for ours, theirs in zip(result.per_rollout, slow.whitened(expected) if whiten else expected, strict=True):
            assert ours.tolist() == pytest.approx(theirs, abs=1e-3)


def scored_case(case: Case, rewards: list[list[float]]) -> tuple[Batch, ProcessRewards]:
    groups = []
    for group_id in dict.fromkeys(case.group_ids):
        members = [i for i, other in enumerate(case.group_ids) if other == group_id]
        rollouts = tuple(verified_rollout(group_id, index, case.outcomes[i], [7] * case.lengths[i]) for index, i in enumerate(members))
        groups.append(VerifiedGroup(group_id=group_id, rollouts=rollouts))
    rows = [np.array(row, dtype=np.float32) for row in rewards]
    return Batch(step=1, groups=tuple(groups)), ProcessRewards(rollouts=rows)


def test_a_critic_that_saw_the_batch_often_explains_its_returns() -> None:
    loop = learner(AlgorithmSection(estimator="ppo", process_weight=0.0))
    batch = batch_of(1)
    first = loop.trainer.process(*scored(batch))
    assert first["critic_explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert first["critic_value_mean"] == 0
    # Half of the rollouts earn 1: half the squared error of V = 0 is half the share of right tokens.
    tokens = [(one.outcome_reward, one.rollout.trained_tokens) for one in batch.rollouts]
    assert first["critic_loss"] == pytest.approx(
        0.5 * sum(count for outcome, count in tokens if outcome) / sum(count for _, count in tokens)
    )
    for _ in range(60):
        last = loop.trainer.process(*scored(batch))
    # Never all of it: all rollouts have the same prompt, so their first values are the same.
    assert last["critic_explained_variance"] > 0.5
    assert last["critic_loss"] < 0.5 * first["critic_loss"]


def test_with_values_of_0_lambda_1_and_outcomes_alone_ppo_is_reinforce() -> None:
    batch = scored(batch_of(1))
    values = [torch.zeros(one.rollout.trained_tokens) for one in batch[0].rollouts]
    ppo = batch_advantages(*batch, AlgorithmSection(estimator="ppo"), values=values)
    plain = batch_advantages(*batch, AlgorithmSection(estimator="reinforce"))
    for one, other in zip(ppo.per_rollout, plain.per_rollout, strict=True):
        torch.testing.assert_close(one, other)
    assert ppo.metrics == pytest.approx(plain.metrics)


@pytest.mark.parametrize("micro_batch_rollouts", [1, 5])
def test_rollouts_in_turns_have_a_value_per_trained_token(micro_batch_rollouts: int) -> None:
    model, batch = TokenValueModel(tiny_model()), batch_in_turns(1)
    torch.nn.init.normal_(model.value_head.weight, generator=torch.Generator().manual_seed(0))
    section = CriticSection(micro_batch_rollouts=micro_batch_rollouts, updates_per_batch=3)
    critic = CriticTrainer(PlainEngine(model), PPO, section, total_steps=10)
    rows = rows_of(batch)
    expected = ragged(model(rows.input_ids, rows.attention_mask, rows.is_trained).detach(), rows.is_trained)
    for ours, theirs in zip(critic.values(batch, RowFetcher(CONTENTS, pad_id=0)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_in_turns_too_micro_batches_change_neither_policy_nor_critic() -> None:
    whole, split = (learner(micro_batch_rollouts=rows, updates_per_batch=3) for rows in (100, 1))
    for step in (1, 2):
        one, other = (loop.trainer.process(*scored(batch_in_turns(step))) for loop in (whole, split))
        assert {name: other[name] for name in one} == pytest.approx(one, rel=1e-3, abs=2e-5)
    assert_same(whole, split)


def test_the_critic_has_a_learning_rate_of_its_own() -> None:
    engine = PlainEngine(TokenValueModel(tiny_model()))
    critic = CriticTrainer(engine, PPO, CriticSection(learning_rate=4e-3, warmup_steps=4), total_steps=10)
    batch, fetcher = batch_of(1), RowFetcher(CONTENTS, pad_id=0)
    targets = [torch.ones(one.rollout.trained_tokens) for one in batch.rollouts]
    metrics = critic.update(batch, fetcher, critic.values(batch, fetcher), targets)
    assert metrics["critic_learning_rate"] == pytest.approx(1e-3)


def test_saved_and_loaded_policy_and_critic_go_on_to_the_bit(tmp_path: Path) -> None:
    straight, resumed = learner(), learner()
    straight.trainer.process(*scored(batch_of(1)))
    for name in ("policy", "critic"):
        (tmp_path / name).mkdir()
        getattr(straight, name).save(tmp_path / name)
        getattr(resumed, name).load(tmp_path / name)
    one, other = (loop.trainer.process(*scored(batch_of(2))) for loop in (straight, resumed))
    assert one == other
    assert_same(straight, resumed, tolerance=0)


@pytest.mark.parametrize("estimator", ["ppo", "rloo"])
def test_a_critic_is_there_exactly_when_the_estimator_needs_one(estimator: str) -> None:
    algorithm = AlgorithmSection.model_validate({"estimator": estimator})
    loop = learner()
    critic = None if estimator == "ppo" else loop.trainer._critic
    with pytest.raises(ValueError, match=r'"ppo" needs a critic, but there is none|"rloo" has no use for a critic'):
        PolicyTrainer(loop.policy, algorithm, LearnerSection(), CONTENTS, pad_id=0, total_steps=1, critic=critic)
    with pytest.raises(ValueError, match="needs the critic's values"):
        batch_advantages(*scored(batch_of(1)), PPO)
