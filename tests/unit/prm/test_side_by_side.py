"""Which cores PRM and reference are computed on."""

import os
from collections.abc import Iterator

import pytest
import torch

from oprime_prm.scoring.app import side_by_side


@pytest.fixture(autouse=True)
def threads_of_other_tests() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("borrows", [False, True])
def test_each_has_half_of_the_threads(borrows: bool) -> None:
    torch.set_num_threads(5)
    beside = side_by_side(borrows=borrows)
    assert beside is not None
    assert (torch.get_num_threads(), beside.is_borrowed) == (2, False)
    assert beside.thread.submit(torch.get_num_threads).result() == 2


def test_a_process_of_one_core_has_no_second_one() -> None:
    torch.set_num_threads(1)
    assert side_by_side(borrows=False) is None


def test_one_of_several_processes_borrows_a_core_that_the_machine_has() -> None:
    torch.set_num_threads(1)
    beside = side_by_side(borrows=True)
    if len(os.sched_getaffinity(0)) == 1:
        assert beside is None
        return
    assert beside is not None
    assert (torch.get_num_threads(), beside.is_borrowed) == (1, True)
