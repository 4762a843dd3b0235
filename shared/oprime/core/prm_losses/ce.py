"""Cross-entropy on outcomes: the paper's loss."""

from jaxtyping import Float

from oprime.core.one_file import Formula
from oprime.core.prm_loss import GroupStatistics, PrmLoss
from oprime.core.tensors import Tensor


def outcome_cross_entropy(
    scores: Float[Tensor, " rollout"], outcome_rewards: Float[Tensor, " rollout"], group: GroupStatistics
) -> Float[Tensor, " rollout"]:
    """In nats, per rollout. Outcome rewards may be fractions.

    Computed from logits, so it never saturates. Raises ValueError for outcome rewards outside [0, 1].
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    bad = ~((outcome_rewards >= 0) & (outcome_rewards <= 1))
    if bool(bad.any()):
        value = float(outcome_rewards[bad][0])
        raise ValueError(f"outcome reward {value} is outside [0, 1]: a verifier must return a score from 0 to 1")
    return binary_cross_entropy_with_logits(scores, outcome_rewards, reduction="none")


LOSS = PrmLoss(
    about="cross-entropy of the outcome and sigmoid(sum_t r_t)",
    source="paper, Eq. 4",
    formulas=(Formula(text="-[r_o log sigmoid(s) + (1 - r_o) log(1 - sigmoid(s))], s = sum_t r_t before normalisation"),),
    losses=outcome_cross_entropy,
)
