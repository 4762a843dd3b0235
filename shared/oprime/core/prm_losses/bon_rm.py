"""DPO, weighed by how likely each response is to be the best of its group by score."""

from jaxtyping import Float, Int

from oprime.core.checked import checked
from oprime.core.one_file import Formula
from oprime.core.prm_loss import GroupStatistics, PrmLoss, PrmTokens, best_of_group_weights
from oprime.core.prm_losses import dpo
from oprime.core.tensors import Tensor


@checked
def statistics(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> GroupStatistics:
    return {**dpo.statistics(scores, outcome_rewards, group_ids), "weights": best_of_group_weights(scores.detach(), group_ids)}


@checked
def bon_rm(tokens: PrmTokens) -> Float[Tensor, " rollout"]:
    return tokens.group["weights"] * dpo.dpo(tokens)


LOSS = PrmLoss(
    about="`dpo`, weighed by the chance to be the best of the group by score",
    source="the released code's port",
    formulas=(Formula(text=f"K (share of the group with s no higher)^(K-1) times {dpo.LOSS.formulas[0].text}"),),
    losses=bon_rm,
    statistics=statistics,
)
