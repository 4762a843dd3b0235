"""The process group of a service that has one rank."""

from collections import Counter
from pathlib import Path

import torch

from oprime.adapters.rank_group import RankGroup


def gloo_threads() -> Counter[str]:
    """This process's threads of the gloo library, by name: each wakes a hundred times a second."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return Counter(name for name in names if "gloo" in name)


def test_a_rank_alone_makes_no_threads_of_its_own_and_still_answers_every_call() -> None:
    RankGroup(on_gpu=False)
    before = gloo_threads()
    groups = [RankGroup(on_gpu=False) for _ in range(3)]
    assert gloo_threads() == before
    for group in groups:
        assert (group.rank, group.world_size) == (0, 1)
        assert group.broadcast(b"payload") == b"payload"
        assert group.gather(b"mine") == [b"mine"]
        assert torch.equal(group.all_sum(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))
        group.barrier()
