"""Balancing of PRM losses over prompts whose responses are mostly right, or mostly wrong (IPVRM, arXiv 2604.13197).

Loads no torch: the files of `prm_losses` that can be balanced share these settings, formulas and this function.
"""

from jaxtyping import Float, Int

from oprime.core.checked import checked
from oprime.core.groups import group_mean
from oprime.core.one_file import Formula, OwnSetting, Settings
from oprime.core.prm_loss import GroupStatistics
from oprime.core.tensors import Tensor

CERTAIN = 1e-6
"""How far a group's mean outcome stays away from 0 and 1."""

DIFFICULTY_OFFSET = OwnSetting(
    name="difficulty_offset",
    default=False,
    meaning="Take what the group's mean outcome foretells as known, so that the PRM learns what sets a response apart from its siblings.",
)
RARITY_WEIGHT = OwnSetting(
    name="rarity_weight",
    default=False,
    meaning="Weigh the few right responses to a hard prompt, and the few wrong ones to an easy one, more.",
)
BALANCING = (DIFFICULTY_OFFSET, RARITY_WEIGHT)

OFFSET_FORMULA = Formula(
    term="difficulty offset",
    text="b = log(u / (1 - u)), u the mean of r_o over the group, at least 1e-6 away from 0 and 1",
    when={DIFFICULTY_OFFSET.name: True},
)
WEIGHT_FORMULA = Formula(
    term="rarity weight",
    text="times w, w = 1 - u where r_o > 1/2 and u elsewhere, divided by its mean over the group",
    when={RARITY_WEIGHT.name: True},
)


def balanced_by(settings: Settings) -> tuple[str, ...]:
    """The names of the balancing settings that are on."""
    return tuple(setting.name for setting in BALANCING if settings.get(setting.name, False))


@checked
def balance(
    outcome_rewards: Float[Tensor, " rollout"],
    group_ids: Int[Tensor, " rollout"],
    *,
    difficulty_offset: bool,
    rarity_weight: bool,
) -> GroupStatistics:
    """`offsets` and `weights` of each rollout, where they are asked for."""
    mean = group_mean(outcome_rewards, group_ids).clamp(CERTAIN, 1 - CERTAIN)
    found: dict[str, Tensor] = {}
    if difficulty_offset:
        found["offsets"] = (mean / (1 - mean)).log()
    if rarity_weight:
        rarity = (1 - mean).where(outcome_rewards > 0.5, mean)
        found["weights"] = rarity / group_mean(rarity, group_ids)
    return found


@checked
def offsets(group: GroupStatistics, like: Float[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """b of each rollout; 0 without the difficulty offset."""
    return group["offsets"] if "offsets" in group else like.new_zeros(like.shape)


@checked
def weighted(losses: Float[Tensor, " rollout"], group: GroupStatistics) -> Float[Tensor, " rollout"]:
    """Losses times w, where there are rarity weights."""
    return losses * group["weights"] if "weights" in group else losses
