"""Statistics over the rollouts of one prompt, found by group id: rows may stand in any order and groups may differ in size."""

from typing import cast

from jaxtyping import Bool, Float, Int

from oprime.core.checked import checked
from oprime.core.masked import masked_sum
from oprime.core.tensors import Tensor


@checked
def group_mean(values: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """Mean value of each rollout's group, itself included."""
    group, sizes = _group_places(group_ids)
    return _sum_by_group(values, group, len(sizes))[group] / sizes[group]


@checked
def group_std(values: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"], *, ddof: int) -> Float[Tensor, " rollout"]:
    """Standard deviation of each rollout's group, itself included, over K - ddof. Raises ValueError for a group of one rollout."""
    group, sizes = _group_places(group_ids)
    _refuse_single_rollouts(group_ids)
    centred = values - group_mean(values, group_ids)
    return (_sum_by_group(centred.square(), group, len(sizes)) / (sizes - ddof)).sqrt()[group]


@checked
def group_token_moments(
    values: Float[Tensor, "rollout token"], mask: Bool[Tensor, "rollout token"], group_ids: Int[Tensor, " rollout"], *, ddof: int
) -> tuple[Float[Tensor, " rollout"], Float[Tensor, " rollout"]]:
    """Mean and standard deviation (over their number - ddof) of all masked values of each rollout's group. A single value deviates by
    0."""
    group, sizes = _group_places(group_ids)

    def of_groups(per_rollout: Tensor) -> Tensor:
        return _sum_by_group(per_rollout, group, len(sizes))[group]

    count = of_groups(mask.sum(dim=1).to(values.dtype))
    mean = of_groups(masked_sum(values, mask)) / count.clamp(min=1)
    squares = of_groups(masked_sum((values - mean[:, None]).square(), mask))
    return mean, (squares / (count - ddof).clamp(min=1)).sqrt()


@checked
def leave_one_out_mean(values: Float[Tensor, " rollout"], group_ids: Int[Tensor, " rollout"]) -> Float[Tensor, " rollout"]:
    """Mean value of each rollout's siblings, itself left out. Raises ValueError for a group of one rollout."""
    group, sizes = _group_places(group_ids)
    _refuse_single_rollouts(group_ids)
    return (_sum_by_group(values, group, len(sizes))[group] - values) / (sizes[group] - 1)


@checked
def group_sizes(group_ids: Int[Tensor, " rollout"]) -> Int[Tensor, " rollout"]:
    """K of each rollout's group."""
    group, sizes = _group_places(group_ids)
    return sizes[group]


def _group_places(group_ids: Int[Tensor, " rollout"]) -> tuple[Int[Tensor, " rollout"], Int[Tensor, " group"]]:
    """Each rollout's place in the sorted list of groups, and the groups' sizes."""
    unique = group_ids.unique(return_inverse=True, return_counts=True)  # pyright: ignore
    _, group, sizes = cast("tuple[Tensor, Tensor, Tensor]", unique)
    return group, sizes


def _sum_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    return values.new_zeros(groups).index_add(0, group, values)


def _refuse_single_rollouts(group_ids: Tensor) -> None:
    alone = group_ids[group_sizes(group_ids) < 2]
    if len(alone) > 0:
        raise ValueError(
            f"group {int(alone[0])} has 1 rollout, but a baseline from siblings needs at least 2: "
            "set sampling.group_size to 2 or more and leave out groups that shrank to 1"
        )
