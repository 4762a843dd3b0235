"""Advantages of a batch do not depend on how much of it is computed on at a time, nor on what others wrote between a model's turns."""

from collections import ChainMap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from oprime.core import estimators
from oprime.core.types import Batch, ProcessRewards, VerifiedGroup
from oprime.core.verification import scored
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import PART_TOKENS, BatchAdvantages, _parts, batch_advantages
from rollouts import single_turn, verified
from tiny_models import batch_in_turns, batch_of

NORMALISATIONS = ({}, {"process_normalisation": "per_rank", "normalisation_chunks": 5}, {"process_normalisation": "none"})
REWARDS = (
    {},
    {"granularity": "sequence"},
    {"process_weight": 0.0},
    {"process_discount": 0.9, "outcome_discount": 0.9},
    {"loo": "released"},
    {"process_credit": "min"},
)


BESIDE = {"prefix_baseline": {"process_normalisation": "none"}}
"""What an estimator cannot do without."""


def algorithms(*choices: Iterable[dict[str, Any]]) -> list[AlgorithmSection]:
    """Every estimator with every combination of `choices`, without those that contradict each other."""
    found: list[AlgorithmSection] = []
    for settings in product([{"estimator": name, **BESIDE.get(name, {})} for name in estimators.names()], *choices):
        with suppress(ValueError):
            found.append(AlgorithmSection.model_validate(dict(ChainMap(*settings))))
    assert {one.estimator for one in found} == set(estimators.names())
    return found


def name_of(algorithm: AlgorithmSection) -> str:
    changes = algorithm.model_dump(exclude_defaults=True, exclude={"estimator"})
    return " ".join([algorithm.estimator, *(f"{name}={value}" for name, value in changes.items())])


def rewards_of(batch: Batch) -> ProcessRewards:
    """The same for batches of equally many trained tokens."""
    dice = np.random.default_rng(0)
    rollouts, baselines = (
        [dice.normal(size=one.rollout.trained_tokens).astype(np.float32) for one in issued] for issued in (batch.rollouts, batch.baselines)
    )
    return ProcessRewards(rollouts=rollouts, baselines=baselines)


def advantages_of(batch: Batch, algorithm: AlgorithmSection, *, part_tokens: int = PART_TOKENS) -> BatchAdvantages:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(one.rollout.trained_tokens, generator=generator) for one in batch.rollouts] if algorithm.needs_critic else []
    return batch_advantages(batch, rewards_of(batch), algorithm, values=values, part_tokens=part_tokens)


def assert_same(one: BatchAdvantages, other: BatchAdvantages) -> None:
    assert len(one.value_targets) == len(other.value_targets)
    for first, second in zip([*one.per_rollout, *one.value_targets], [*other.per_rollout, *other.value_targets], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    assert one.metrics == pytest.approx(other.metrics, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "algorithm",
    algorithms(NORMALISATIONS, ({}, {"whiten_advantages": False})) + algorithms(REWARDS[1:]),
    ids=name_of,
)
def test_a_batch_in_parts_is_the_batch_in_one(algorithm: AlgorithmSection) -> None:
    batch = batch_of(1, groups=4, baselines=algorithm.needs_greedy_baseline)
    assert len(list(_parts(batch, 1))) == 4
    assert len(list(_parts(batch, 50))) == 2
    whole = advantages_of(batch, algorithm)
    for part_tokens in (1, 50):
        assert_same(advantages_of(batch, algorithm, part_tokens=part_tokens), whole)


@pytest.mark.parametrize("algorithm", algorithms(REWARDS), ids=name_of)
def test_gaps_between_trained_tokens_change_no_advantage(algorithm: AlgorithmSection) -> None:
    # A discount counts trained tokens: what a tool wrote in between takes no time, and the value before a turn is next in line.
    plain, gapped = (make(1, baselines=algorithm.needs_greedy_baseline) for make in (batch_of, batch_in_turns))
    assert [one.rollout.trained_tokens for one in plain.rollouts] == [one.rollout.trained_tokens for one in gapped.rollouts]
    assert all(one.rollout.tokens < other.rollout.tokens for one, other in zip(plain.rollouts, gapped.rollouts, strict=True))
    assert_same(advantages_of(gapped, algorithm), advantages_of(plain, algorithm))


def lengths(*groups: tuple[int, ...]) -> Batch:
    """A batch of responses of these lengths."""
    return Batch(
        step=1,
        groups=tuple(
            VerifiedGroup(
                group_id=number,
                rollouts=tuple(verified(single_turn(number, index, [3], [9] * length), 1.0) for index, length in enumerate(members)),
            )
            for number, members in enumerate(groups)
        ),
    )


@pytest.mark.parametrize(
    ("most", "parts"),
    [
        (1, [(0, 2), (2, 5), (5, 7)]),  # a group is never split
        (12, [(0, 2), (2, 5), (5, 7)]),
        (15, [(0, 5), (5, 7)]),  # five rollouts, laid out as long as the longest, 3
        (34, [(0, 5), (5, 7)]),
        (35, [(0, 7)]),  # seven of length 5
    ],
)
def test_a_part_is_as_many_whole_groups_as_fit(most: int, parts: list[tuple[int, int]]) -> None:
    batch = lengths((3, 1), (2, 2, 1), (5, 1))
    assert [(part.start, part.stop) for part in _parts(batch, most)] == parts


def all_right(batch: Batch, groups: int) -> Batch:
    """The batch, with outcomes of 1 in its first groups."""

    def of(group: VerifiedGroup) -> VerifiedGroup:
        return replace(group, rollouts=tuple(replace(one, outcome=scored(1.0)) for one in group.rollouts))

    return replace(batch, groups=tuple(of(group) if place < groups else group for place, group in enumerate(batch.groups)))


@pytest.mark.parametrize("part_tokens", [1, PART_TOKENS])
def test_a_batch_without_variance_of_outcomes_is_not_whitened_to_the_noise_of_the_prm(part_tokens: int) -> None:
    batch = batch_of(1, groups=4)
    found = {
        (right, guard): advantages_of(
            all_right(batch, right), AlgorithmSection.model_validate({"whitening_guard": guard}), part_tokens=part_tokens
        )
        for right, guard in ((4, 0.0), (4, 0.1), (3, 0.0), (3, 0.1), (3, 10.0))
    }
    size = {case: float(torch.cat(one.per_rollout).std()) for case, one in found.items()}
    # Unguarded, noise has the size of a batch with variance; guarded, it is gone. One group of four that varies is enough for the default.
    assert (size[4, 0.0], size[4, 0.1], size[3, 0.1]) == (pytest.approx(1, abs=1e-4), 0, pytest.approx(size[3, 0.0]))
    metrics = found[3, 10.0].metrics
    assert metrics["whitening_factor"] == pytest.approx(metrics["outcome_return_std"] / (10 * metrics["process_return_std"]))
    assert size[3, 10.0] == pytest.approx(metrics["whitening_factor"], abs=1e-4)
    assert "whitening_factor" not in found[4, 0.0].metrics


def test_the_correlation_is_that_of_both_parts_over_tokens() -> None:
    batch = batch_of(1, groups=4)
    outcomes = [one.outcome_reward for one in batch.rollouts]
    process = [np.full(one.rollout.trained_tokens, sign, dtype=np.float32) for one, sign in zip(batch.rollouts, outcomes, strict=True)]
    algorithm = AlgorithmSection.model_validate({"process_discount": 0.0})
    # A token's part is then its outcome less that of its siblings, for both sources.
    found = batch_advantages(batch, ProcessRewards(rollouts=process), algorithm).metrics
    assert found["process_outcome_correlation"] == pytest.approx(1.0)
    against = batch_advantages(batch, ProcessRewards(rollouts=[-row for row in process]), algorithm).metrics
    assert against["process_outcome_correlation"] == pytest.approx(-1.0)
    value = AlgorithmSection.model_validate({"estimator": "prm_value"})
    assert "process_outcome_correlation" not in batch_advantages(batch, ProcessRewards(rollouts=process), value).metrics


@pytest.mark.parametrize(
    ("settings", "noise_return", "floor", "scale"),
    [
        ({}, 0.0, 1e-3, 0.6),
        # The largest return, 0.6, is below three times what noise alone has.
        ({}, 0.21, 0.63, 1.0),
        ({}, 0.19, 0.57, 0.6),
        ({"normalisation_noise": 0.0}, 0.21, 1e-3, 0.6),
        ({"process_normalisation": "per_rank", "normalisation_chunks": 1}, 0.21, 0.63, 1.0),
    ],
)
def test_the_floor_of_normalisation_follows_the_noise(settings: dict[str, Any], noise_return: float, floor: float, scale: float) -> None:
    batch = lengths((3, 3))
    process = [np.full(3, 0.2, dtype=np.float32), np.zeros(3, dtype=np.float32)]
    algorithm = AlgorithmSection.model_validate({"estimator": "reinforce", "whiten_advantages": False, "outcome_weight": 0.0, **settings})
    found = batch_advantages(batch, ProcessRewards(rollouts=process), algorithm, noise_return=noise_return)
    assert found.metrics["normalisation_floor"] == pytest.approx(floor)
    assert found.per_rollout[0].tolist() == pytest.approx([0.6 / scale, 0.4 / scale, 0.2 / scale], abs=1e-5)


def test_minimum_form_credit_changes_rewards_before_their_return() -> None:
    batch = lengths((3, 3))
    process = [np.array([0.3, -0.8, 0.1], dtype=np.float32), np.zeros(3, dtype=np.float32)]
    algorithm = AlgorithmSection.model_validate(
        {"estimator": "reinforce", "process_credit": "min", "credit_temperature": 1.0, "process_normalisation": "none"}
        | {"whiten_advantages": False, "outcome_weight": 0.0}
    )
    found = batch_advantages(batch, ProcessRewards(rollouts=process), algorithm).per_rollout
    assert found[0].tolist() == pytest.approx([-0.379134, -0.436544, 0.023374], abs=1e-6)
    assert found[1].tolist() == [0, 0, 0]
