"""What a loss of the implicit PRM gets, gives and says about itself. The losses are the files of `oprime.core.prm_losses`.

Loads no torch: settings and command line read what losses need where there is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from oprime.core.checked import checked
from oprime.core.masked import masked_mean, masked_sum
from oprime.core.one_file import Choice
from oprime.core.tensors import Tensor

GroupStatistics = Mapping[str, Tensor]
"""What a loss knows of each rollout's whole group: one number per rollout under each name, without gradient."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrmTokens:
    """What a loss of the PRM gets of a micro-batch."""

    process_rewards: Float[Tensor, "rollout token"]
    """r_t, beta included, with gradient."""
    is_trained: Bool[Tensor, "rollout token"]
    outcome_rewards: Float[Tensor, " rollout"]
    """From 0 to 1; may be fractions."""
    group: GroupStatistics
    """What the loss's `balance` and `statistics` found, of these rollouts."""

    @property
    def scores(self) -> Float[Tensor, " rollout"]:
        """s = sum_t r_t, not divided by length, with gradient."""
        return masked_sum(self.process_rewards, self.is_trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmLoss(Choice):
    """A loss on outcomes with all that is particular to it. Its file's name is its name in `prm.loss`. Its formula is of one rollout, with
    s = sum_t r_t; the step's loss is the mean over rollouts."""

    losses: Callable[..., Tensor]
    """Pure: from `PrmTokens` to one loss per rollout."""
    balance: Callable[..., GroupStatistics] | None = None
    """Pure: from outcome rewards and group ids of the whole batch. `outcome_balance.balance` for losses that can be balanced."""
    statistics: Callable[..., GroupStatistics] | None = None
    """Pure: from scores, outcome rewards and group ids of the whole batch, before the update. A loss with statistics compares siblings,
    and mode `reverse` alone gathers the scores for it."""
    collapses_unbalanced: bool = False
    """Whether a run without the prompt filter must balance it: updates on prompts whose responses are mostly right, or mostly wrong,
    would push it to one side."""

    @property
    def needed(self) -> tuple[str, ...]:
        pairs = () if self.statistics is None else ("siblings", '`update = "reverse"`')
        return (*pairs, "the prompt filter, or balancing") if self.collapses_unbalanced else pairs


@checked
def outcome_signs(outcome_rewards: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """1 above an outcome of 1/2, -1 below, 0 exactly there."""
    return (2 * outcome_rewards - 1).sign()


@checked
def require_outcomes(outcome_rewards: Float[Tensor, " rollout"]) -> None:
    """Raises ValueError for outcome rewards outside [0, 1]."""
    bad = ~((outcome_rewards >= 0) & (outcome_rewards <= 1))
    if bool(bad.any()):
        value = float(outcome_rewards[bad][0])
        raise ValueError(f"outcome reward {value} is outside [0, 1]: a verifier must return a score from 0 to 1")


@checked
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


@checked
def best_of_group_weights(ranking: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """How likely each rollout is to be the best of K: K * (share of the group that is no better)^(K - 1)."""
    siblings = group_ids[:, None] == group_ids[None, :]
    sizes = siblings.sum(dim=1).to(ranking.dtype)
    share = (siblings & (ranking[None, :] <= ranking[:, None])).sum(dim=1) / sizes
    return sizes * share ** (sizes - 1)
