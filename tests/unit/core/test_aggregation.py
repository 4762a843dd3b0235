"""Shares of tokens in the loss of an optimizer step."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from golden import slow_reference as slow
from oprime.core.aggregation import Aggregation, StepCounts, token_shares
from oprime.runtime.settings import AlgorithmSection
from random_batches import Case, cases

AVERAGES: tuple[Aggregation, ...] = ("tokens", "sequences", "groups")
SUMS: tuple[Aggregation, ...] = ("sequence_sums", "constant")
AGGREGATIONS = AVERAGES + SUMS


def counts_of(case: Case) -> StepCounts:
    return StepCounts(tokens=sum(case.lengths), rollouts=len(case.lengths), groups=len(set(case.group_ids)))


def group_tokens(case: Case) -> torch.Tensor:
    return torch.tensor([sum(case.lengths[j] for j in slow.members(case.group_ids, i)) for i in range(len(case.lengths))])


def test_shares_by_hand() -> None:
    # Group 1 has responses of 1 and 3 tokens, group 2 one of 2: 6 tokens, 3 rollouts, 2 groups.
    is_trained = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    tokens, counts = torch.tensor([4, 4, 2]), StepCounts(tokens=6, rollouts=3, groups=2)
    first_tokens = {
        name: token_shares(is_trained, tokens, counts, aggregation=name, constant_tokens=10)[:, 0].tolist() for name in AGGREGATIONS
    }
    assert first_tokens["tokens"] == pytest.approx([1 / 6, 1 / 6, 1 / 6])
    assert first_tokens["sequences"] == pytest.approx([1 / 3, 1 / 9, 1 / 6])
    assert first_tokens["groups"] == pytest.approx([1 / 8, 1 / 8, 1 / 4])
    assert first_tokens["sequence_sums"] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert first_tokens["constant"] == pytest.approx([1 / 30, 1 / 30, 1 / 30])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@hypothesis_settings(max_examples=40)
@given(case=cases(smallest_group=1))
def test_shares_equal_the_slow_ones_and_those_of_an_average_add_up_to_1(aggregation: Aggregation, case: Case) -> None:
    shares = token_shares(case.is_trained, group_tokens(case), counts_of(case), aggregation=aggregation, constant_tokens=7)
    assert aggregation in SUMS or float(shares.sum()) == pytest.approx(1.0)
    for i, row in enumerate(case.rows_of(shares)):
        assert row == pytest.approx([slow.share(case.lengths, case.group_ids, i, aggregation)] * case.lengths[i])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@hypothesis_settings(max_examples=20)
@given(case=cases())
def test_a_rollouts_shares_do_not_depend_on_its_micro_batch(aggregation: Aggregation, case: Case) -> None:
    whole = token_shares(case.is_trained, group_tokens(case), counts_of(case), aggregation=aggregation, constant_tokens=7)
    for row in range(len(case.lengths)):
        part = slice(row, row + 1)
        alone = token_shares(case.is_trained[part], group_tokens(case)[part], counts_of(case), aggregation=aggregation, constant_tokens=7)
        torch.testing.assert_close(alone, whole[part])


def test_a_step_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"StepCounts\(tokens=0.*pass the counts of the whole step"):
        token_shares(torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0, dtype=torch.int64),
                     StepCounts(tokens=0, rollouts=1, groups=1), aggregation="tokens")  # fmt: skip


def test_a_constant_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"constant_tokens \(0\) must be at least 1 .* pass M"):
        token_shares(
            torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]), StepCounts(tokens=3, rollouts=1, groups=1), aggregation="constant"
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"aggregation": "constant"}, r'aggregation = "constant" divides by algorithm.constant_tokens, which is 0: set it'),
        (
            {"constant_tokens": 8},
            r'constant_tokens \(8\) does nothing with algorithm.aggregation = "tokens": set algorithm.constant_tokens=0',
        ),
    ],
)
def test_a_constant_without_its_aggregation_is_refused_and_the_other_way_round(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AlgorithmSection.model_validate(settings)
