"""Cross-entropy on outcomes: the paper's loss."""

from jaxtyping import Float

from oprime.core.checked import checked
from oprime.core.one_file import Formula
from oprime.core.outcome_balance import BALANCING, OFFSET_FORMULA, WEIGHT_FORMULA, balance, offsets, weighted
from oprime.core.prm_loss import PrmLoss, PrmTokens, require_outcomes
from oprime.core.tensors import Tensor


@checked
def outcome_cross_entropy(tokens: PrmTokens) -> Float[Tensor, " rollout"]:
    """In nats, per rollout. Computed from logits, so it never saturates. Raises ValueError for outcome rewards outside [0, 1]."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    require_outcomes(tokens.outcome_rewards)
    logits = tokens.scores + offsets(tokens.group, tokens.outcome_rewards)
    return weighted(binary_cross_entropy_with_logits(logits, tokens.outcome_rewards, reduction="none"), tokens.group)


LOSS = PrmLoss(
    about="cross-entropy of the outcome and sigmoid(sum_t r_t)",
    source="paper, Eq. 4; balanced as in IPVRM, arXiv 2604.13197",
    formulas=(
        Formula(
            text="-[r_o log sigmoid(s) + (1 - r_o) log(1 - sigmoid(s))], s = sum_t r_t before normalisation",
            unless={"difficulty_offset": True},
        ),
        Formula(
            text="-[r_o log sigmoid(s + b) + (1 - r_o) log(1 - sigmoid(s + b))], s = sum_t r_t before normalisation",
            when={"difficulty_offset": True},
        ),
        OFFSET_FORMULA,
        WEIGHT_FORMULA,
    ),
    settings=BALANCING,
    losses=outcome_cross_entropy,
    balance=balance,
)
