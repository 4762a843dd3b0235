"""ReMax in the learner: rollouts are compared with a greedy response that is itself never trained on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.types import Batch, ProcessRewards, VerifiedGroup
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import batch_advantages
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.train import ledger_moves
from plain_engine import PlainEngine
from rollouts import CONTENTS
from tiny_models import batch_of, tiny_model, verified_rollout

PLAIN = AlgorithmSection(estimator="remax", whiten_advantages=False, process_normalisation="none")


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def two_groups() -> tuple[Batch, ProcessRewards]:
    """A right rollout whose greedy response is wrong, and a wrong one whose greedy response is right."""
    groups = tuple(
        VerifiedGroup(
            group_id=group,
            rollouts=(verified_rollout(group, 0, right, [9, 9]),),
            baseline=verified_rollout(group, 1, 1.0 - right, [9, 9, 9, 9]),
        )
        for group, right in ((1, 1.0), (2, 0.0))
    )
    rewards = ProcessRewards(rollouts=[floats(0.5, 0.25), floats(-0.5, 0)], baselines=[floats(0.1, 0.1, 0.1, 0.1), floats(-0.8, 0, 0, 0)])
    return Batch(step=1, groups=groups), rewards


def advantages(batch: Batch, rewards: ProcessRewards, algorithm: AlgorithmSection) -> list[list[float]]:
    return [row.tolist() for row in batch_advantages(batch, rewards, algorithm).per_rollout]


def test_a_rollout_is_compared_with_the_greedy_response_to_its_own_prompt() -> None:
    # Process: 0.5 - 0.1 and 0.25 - 0.1, summed to the end; -0.5 + 0.2 and 0 + 0.2. Outcome: 1 - 0 and 0 - 1.
    first, second = advantages(*two_groups(), PLAIN)
    assert first == pytest.approx([0.55 + 1, 0.15 + 1])
    assert second == pytest.approx([-0.1 - 1, 0.2 - 1])


def test_of_the_sequence_the_baseline_is_the_sum_of_its_rewards() -> None:
    first, second = advantages(*two_groups(), PLAIN.model_copy(update={"granularity": "sequence"}))
    assert first == pytest.approx([0.75 - 0.4 + 1] * 2)
    assert second == pytest.approx([-0.5 + 0.8 - 1] * 2)


@pytest.mark.parametrize(("normalisation", "scales"), [("batch_norm", (0.75, 0.75)), ("per_rank", (0.75, 0.5))])
def test_a_baseline_is_normalised_by_the_scale_of_its_rollouts_and_has_no_say_in_it(
    normalisation: str, scales: tuple[float, float]
) -> None:
    # Largest returns: 0.75 and 0.5. The second baseline's, 0.8, is larger and does not count.
    algorithm = PLAIN.model_copy(update={"process_normalisation": normalisation, "outcome_weight": 0.0})
    first, second = advantages(*two_groups(), algorithm)
    assert first == pytest.approx([0.55 / scales[0], 0.15 / scales[0]], abs=1e-5)
    assert second == pytest.approx([-0.1 / scales[1], 0.2 / scales[1]], abs=1e-5)
    assert batch_advantages(*two_groups(), algorithm).metrics["process_return_largest"] == pytest.approx(0.75)


def without_baselines(batch: Batch, rewards: ProcessRewards, chosen: Callable[[VerifiedGroup], bool]) -> tuple[Batch, ProcessRewards]:
    groups = tuple(replace(group, baseline=None) if chosen(group) else group for group in batch.groups)
    kept = [values for group, values in zip(batch.groups, rewards.baselines, strict=True) if not chosen(group)]
    return replace(batch, groups=groups), replace(rewards, baselines=kept)


def test_a_group_without_its_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="group 2 has no greedy baseline"):
        batch_advantages(*without_baselines(*two_groups(), lambda group: group.group_id == 2), PLAIN)
    with pytest.raises(ValueError, match="the batch has none"):
        batch_advantages(*without_baselines(*two_groups(), lambda _: True), PLAIN)


def scored_at_random(seed: int) -> tuple[Batch, ProcessRewards]:
    batch, dice = batch_of(1, groups=5, baselines=True), np.random.default_rng(seed)
    rollouts, baselines = (
        [dice.normal(size=one.rollout.trained_tokens).astype(np.float32) for one in verified]
        for verified in (batch.rollouts, batch.baselines)
    )
    return batch, ProcessRewards(rollouts=rollouts, baselines=baselines)


@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_the_order_of_groups_changes_nothing(order: list[int], seed: int) -> None:
    (batch, rewards), algorithm = scored_at_random(seed), AlgorithmSection(estimator="remax")
    size = len(batch.groups[0].rollouts)
    places = [group * size + index for group in order for index in range(size)]
    shuffled = replace(batch, groups=tuple(batch.groups[group] for group in order))
    of_shuffled = ProcessRewards(
        rollouts=[rewards.rollouts[place] for place in places], baselines=[rewards.baselines[group] for group in order]
    )
    expected = batch_advantages(batch, rewards, algorithm).per_rollout
    found = batch_advantages(shuffled, of_shuffled, algorithm).per_rollout
    for place, values in zip(places, found, strict=True):
        torch.testing.assert_close(values, expected[place], atol=1e-5, rtol=1e-5)


def test_nothing_of_a_baseline_is_trained_on_or_counted() -> None:
    # An estimator that does not look at them must do exactly the same with and without them.
    scored = scored_at_random(0)
    section = LearnerSection(learning_rate=1e-3, micro_batch_rollouts=5)
    seen = []
    for batch in (scored, without_baselines(*scored, lambda _: True)):
        engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
        metrics = PolicyTrainer(engine, AlgorithmSection(), section, CONTENTS, pad_id=0, total_steps=10).process(*batch)
        seen.append((metrics, dict(engine.weights())))
    assert seen[0][0] == seen[1][0]
    assert seen[0][0]["trained_tokens"] == sum(one.rollout.trained_tokens for one in scored[0].rollouts)
    for name, tensor in seen[0][1].items():
        assert torch.equal(tensor, seen[1][1][name]), name


def test_in_the_ledger_a_baseline_ends_as_what_others_were_compared_with() -> None:
    moves = {move.rollout_id: move.state for move in ledger_moves(two_groups()[0])}
    assert moves == {"1:0": "trained:1", "2:0": "trained:1", "1:1": "baseline:1", "2:1": "baseline:1"}
