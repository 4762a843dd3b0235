"""What a loss of the implicit PRM gets, gives and says about itself. The losses are the files of `oprime.core.prm_losses`.

Loads no torch: settings and command line read what losses need where there is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int

from oprime.core.masked import masked_mean
from oprime.core.one_file import Choice
from oprime.core.tensors import Tensor

GroupStatistics = Mapping[str, Tensor]
"""What a loss knows of each rollout's whole group: one number per rollout under each name, without gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmLoss(Choice):
    """A loss on outcomes with all that is particular to it. Its file's name is its name in `prm.loss`. Its formula is of one rollout, with
    s = sum_t r_t; the step's loss is the mean over rollouts."""

    losses: Callable[..., Tensor]
    """Pure: from scores (sums of process rewards, beta included, not divided by length), outcome rewards and `GroupStatistics` to one loss
    per rollout. All arguments are of the same rollouts."""
    statistics: Callable[..., GroupStatistics] | None = None
    """Pure: from scores, outcome rewards and group ids of the whole batch, before the update. A loss with statistics compares siblings,
    and mode `reverse` alone gathers the scores for it."""

    @property
    def needed(self) -> tuple[str, ...]:
        return () if self.statistics is None else ("siblings", '`update = "reverse"`')


def outcome_signs(outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """1 above an outcome of 1/2, -1 below, 0 exactly there."""
    return (2 * outcome_rewards - 1).sign()


def opponent_means(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> Float[Tensor, " rollout"]:
    """Mean score of the siblings that each rollout is compared with; 0 if there are none.

    A rollout with an outcome above 1/2 is compared with the siblings of lower outcome, one below with those of higher.
    """
    siblings = group_ids[:, None] == group_ids[None, :]
    better = siblings & (outcome_rewards[None, :] > outcome_rewards[:, None])
    worse = siblings & (outcome_rewards[None, :] < outcome_rewards[:, None])
    opponents = worse.where(outcome_signs(outcome_rewards)[:, None] > 0, better)
    return masked_mean(scores.detach().expand(len(scores), -1), opponents)


def best_of_group_weights(ranking: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """How likely each rollout is to be the best of K: K * (share of the group that is no better)^(K - 1)."""
    siblings = group_ids[:, None] == group_ids[None, :]
    sizes = siblings.sum(dim=1).to(ranking.dtype)
    share = (siblings & (ranking[None, :] <= ranking[:, None])).sum(dim=1) / sizes
    return sizes * share ** (sizes - 1)
