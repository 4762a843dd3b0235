"""The soft over-long penalty."""

import pytest
import torch

from oprime.core.overlong import overlong_penalties


@pytest.mark.parametrize(("tokens", "penalty"), [(1, 0), (80, 0), (85, 0.125), (90, 0.25), (99, 0.475), (100, 0.5)])
def test_a_response_loses_evenly_more_within_the_buffer_and_all_of_it_at_the_limit(tokens: int, penalty: float) -> None:
    found = overlong_penalties(torch.tensor([tokens]), limit=100, buffer=20, penalty=0.5)
    assert found.tolist() == [pytest.approx(penalty)]


def test_it_is_the_papers_punishment() -> None:
    # DAPO, Eq. 13, with L_max = 12 and L_cache = 4: ((L_max - L_cache) - |y|) / L_cache between the two.
    found = overlong_penalties(torch.arange(13), limit=12, buffer=4, penalty=1.0)
    assert (-found).tolist() == [0] * 9 + [(8 - length) / 4 for length in (9, 10, 11, 12)]
