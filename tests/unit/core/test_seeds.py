"""Seeds of rollouts."""

from hypothesis import given
from hypothesis import strategies as st

from oprime.core.types import rollout_seed


@given(st.integers(0, 2**63), st.integers(-(2**31), 2**63), st.integers(0, 2**20))
def test_a_seed_has_63_bits_whatever_it_is_for(run_seed: int, group_id: int, index: int) -> None:
    assert 0 <= rollout_seed(run_seed, group_id, index) < 2**63


def test_seeds_are_the_same_on_every_machine() -> None:
    assert [rollout_seed(0, 0, 0), rollout_seed(1, -2, 3)] == GOLDEN


def test_no_two_rollouts_share_a_seed() -> None:
    seeds = {rollout_seed(run, group, index) for run in range(3) for group in range(-500, 500) for index in range(4)}
    assert len(seeds) == 3 * 1000 * 4


def test_every_bit_is_used() -> None:
    seeds = [rollout_seed(0, group, 0) for group in range(2000)]
    for bit in range(63):
        # 2,000 fair coins: 1,000 heads, give or take five standard deviations of 22.
        assert 880 < sum(seed >> bit & 1 for seed in seeds) < 1120


GOLDEN = [3763476260871487507, 4257199206881953316]
