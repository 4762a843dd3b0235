import pytest
import torch

from oprime.client.shims.groups import leave_one_out_advantages
from oprime.core import estimators
from oprime.core.advantage import Choices, Rewards


def test_rewards_to_come_less_the_siblings_mean_and_the_outcome_ahead_of_theirs() -> None:
    # Mean token rewards are 1, 2 and 0; so the siblings' means are 1, 1/2 and 3/2. Outcomes 1, 0, 0 are ahead by 1, -1/2 and -1/2.
    found = leave_one_out_advantages([[0.0, 2.0], [2.0], [0.0, 0.0, 0.0]], [1.0, 0.0, 0.0], discount=0.5)
    assert found[0] == pytest.approx([(0 - 1) + 0.5 * (2 - 1) + 1, (2 - 1) + 1])
    assert found[1] == pytest.approx([1.5 - 0.5])
    assert found[2] == pytest.approx([-1.5 * 1.75 - 0.5, -1.5 * 1.5 - 0.5, -1.5 - 0.5])


def test_it_is_the_estimator_of_the_paper() -> None:
    process = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.1, 0.0], [0.2, 0.0, 0.0]])
    lengths = (3, 2, 1)
    mask = torch.arange(3)[None] < torch.tensor(lengths)[:, None]
    rewards = Rewards(
        process=process.where(mask, 0.0),
        rewarded=mask,
        is_trained=mask,
        outcome=torch.tensor([1.0, 0.0, 1.0]),
        group_ids=torch.zeros(3, dtype=torch.long),
    )
    choices = Choices(process_weight=0.7, outcome_weight=1.0, process_discount=0.9, outcome_discount=1.0)
    expected = estimators.named("rloo").with_settings({"loo": "paper"}).estimate(rewards, choices).advantages
    found = leave_one_out_advantages(
        [row[:length] for row, length in zip(process.tolist(), lengths, strict=True)],
        rewards.outcome.tolist(),
        discount=0.9,
        process_weight=0.7,
    )
    for row, length, ours in zip(expected.tolist(), lengths, found, strict=True):
        assert ours == pytest.approx(row[:length], abs=1e-6)


def test_a_rollout_alone_and_outcomes_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="a group of 1 rollouts has no siblings"):
        leave_one_out_advantages([[1.0]])
    with pytest.raises(ValueError, match="1 outcomes for 2 rollouts"):
        leave_one_out_advantages([[1.0], [2.0]], [1.0])
    assert leave_one_out_advantages([[1.0], []]) == [[1.0], []]
