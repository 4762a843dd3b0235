"""DPO over the siblings of a group, with one side detached."""

from jaxtyping import Float, Int

from oprime.core.checked import checked
from oprime.core.one_file import Formula
from oprime.core.prm_loss import GroupStatistics, PrmLoss, PrmTokens, opponent_means, outcome_signs
from oprime.core.tensors import Tensor


@checked
def statistics(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]
) -> GroupStatistics:
    return {"others": opponent_means(scores, outcome_rewards, group_ids)}


@checked
def dpo(tokens: PrmTokens) -> Float[Tensor, " rollout"]:
    """An outcome of exactly 1/2 says neither and sends no gradient."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(outcome_signs(tokens.outcome_rewards) * (tokens.scores - tokens.group["others"]))


LOSS = PrmLoss(
    about="every response against the mean of its siblings of lower, or higher, outcome",
    source="paper, appendix C.2",
    formulas=(
        Formula(
            text="-log sigmoid(s_i - mean s_j of siblings with lower r_o) if r_o > 1/2, "
            "-log sigmoid(mean s_j of siblings with higher r_o - s_i) if r_o < 1/2; s_j from before the update, without gradient"
        ),
    ),
    losses=dpo,
    statistics=statistics,
)
