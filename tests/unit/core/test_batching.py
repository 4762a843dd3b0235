"""Cutting a batch into optimizer steps, ranks and micro-batches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.batching import chunk_of_each, padded_passes, shard, shard_families, split_groups


def test_groups_are_split_evenly_and_in_order() -> None:
    assert split_groups("abcdef", 2) == [["a", "b", "c"], ["d", "e", "f"]]
    assert split_groups("abcdefgh", 3) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert split_groups([1, 2], 1) == [[1, 2]]


@pytest.mark.parametrize("parts", [0, 4])
def test_every_optimizer_step_needs_a_group(parts: int) -> None:
    with pytest.raises(ValueError, match=rf"updates_per_batch \({parts}\) must be from 1 to .* \(3\)"):
        split_groups([1, 2, 3], parts)


def test_items_are_cut_into_even_chunks_in_order() -> None:
    assert chunk_of_each(5, 2) == [0, 0, 0, 1, 1]
    assert chunk_of_each(2, 3) == [0, 1]


def test_rollouts_of_similar_length_share_a_micro_batch() -> None:
    assert shard([5, 90, 6, 80], ranks=1, micro_batch_rollouts=2) == [[[1, 3], [2, 0]]]
    assert shard([5, 90, 6, 80], ranks=2, micro_batch_rollouts=1) == [[[1], [2]], [[3], [0]]]


def test_ranks_share_the_work_before_a_micro_batch_is_filled() -> None:
    assert shard([1, 1, 1, 1], ranks=2, micro_batch_rollouts=8) == [[[0, 1]], [[2, 3]]]


def test_a_rank_without_work_gets_empty_micro_batches() -> None:
    assert shard([7], ranks=3, micro_batch_rollouts=2) == [[[0]], [[]], [[]]]
    assert shard([7, 7, 7], ranks=2, micro_batch_rollouts=1) == [[[0], [2]], [[1], []]]


def test_a_budget_of_tokens_makes_micro_batches_of_similar_size() -> None:
    # 90 + 10 and 60 + 40 tokens; by rollouts it would be 90 + 60 and 40 + 10.
    assert shard([10, 90, 40, 60], ranks=1, micro_batch_rollouts=2, micro_batch_tokens=100) == [[[1, 0], [3, 2]]]
    assert shard([10, 90, 40, 60], ranks=2, micro_batch_rollouts=2, micro_batch_tokens=100) == [[[1, 0]], [[3, 2]]]


def test_a_rollout_beyond_the_budget_of_tokens_is_alone() -> None:
    assert shard([300, 20, 20], ranks=1, micro_batch_rollouts=1, micro_batch_tokens=100) == [[[0], [1, 2]]]


def test_a_negative_budget_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"micro_batch_tokens \(-1\) must be positive, or 0"):
        shard([1], ranks=1, micro_batch_rollouts=1, micro_batch_tokens=-1)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5), st.integers(1, 120))
def test_a_budget_of_tokens_holds_on_every_rank(lengths: list[int], ranks: int, most: int) -> None:
    shards = shard(lengths, ranks=ranks, micro_batch_rollouts=1, micro_batch_tokens=most)
    assert len({len(of_rank) for of_rank in shards}) == 1
    every = [micro_batch for of_rank in shards for micro_batch in of_rank]
    assert sorted(position for micro_batch in every for position in micro_batch) == list(range(len(lengths)))
    assert all(len(one) <= 1 or sum(lengths[position] for position in one) <= most for one in every)


def test_no_rollouts_no_micro_batches() -> None:
    assert shard([], ranks=2, micro_batch_rollouts=4) == [[], []]
    assert shard([], ranks=2, micro_batch_rollouts=4, micro_batch_tokens=9) == [[], []]


@pytest.mark.parametrize(("ranks", "size"), [(0, 1), (1, 0)])
def test_sizes_must_be_positive(ranks: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"ranks \({ranks}\) and micro_batch_rollouts \({size}\) must be positive"):
        shard([1], ranks=ranks, micro_batch_rollouts=size)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5), st.integers(1, 6))
def test_every_rollout_is_dealt_once(lengths: list[int], ranks: int, size: int) -> None:
    shards = shard(lengths, ranks=ranks, micro_batch_rollouts=size)
    assert len(shards) == ranks
    assert {len(of_rank) for of_rank in shards} == {-(-len(lengths) // (ranks * size))}
    flat = [position for of_rank in shards for micro_batch in of_rank for position in micro_batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert all(len(micro_batch) <= size for of_rank in shards for micro_batch in of_rank)
    loads = [sum(len(micro_batch) for micro_batch in of_rank) for of_rank in shards]
    assert max(loads) - min(loads) <= max(1, -(-len(lengths) // (ranks * size)))


@settings(max_examples=60)
@given(st.lists(st.integers(), min_size=1, max_size=30), st.data())
def test_a_split_keeps_all_groups_in_order(groups: list[int], data: st.DataObject) -> None:
    parts = split_groups(groups, data.draw(st.integers(1, len(groups))))
    assert [group for part in parts for group in part] == groups
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_padded_passes_keep_to_their_tokens_with_padding_and_give_a_long_row_one_of_its_own() -> None:
    # 9 is beyond the bound of 8; 4 and 3 make 2 x 4; 2, 1 and 1 make 3 x 2, and a fourth would make 8 too.
    assert padded_passes([2, 9, 4, 1, 3, 1], 8) == [[1], [2, 4], [0, 3, 5]]
    assert padded_passes([], 8) == []


def test_siblings_stay_together_so_that_their_prompt_is_computed_once() -> None:
    # By length it would be 30 + 30 and 20 + 20, with two prompts of 9 tokens each.
    found = shard_families([30, 20, 30, 20], [5, 5, 6, 6], [9, 9, 9, 9], ranks=1, micro_batch_rollouts=2)
    assert found == [[[0, 1], [2, 3]]]


def test_siblings_are_apart_where_ranks_would_wait_longer_than_their_prompt_is_worth() -> None:
    # Together: 99 on one rank and 19 on the other. Apart: 50 + 10 on each.
    lengths, families = [50, 50, 10, 10], [5, 5, 6, 6]
    assert shard_families(lengths, families, [1, 1, 1, 1], ranks=2, micro_batch_rollouts=2) == shard(
        lengths, ranks=2, micro_batch_rollouts=2
    )
    # A prompt of 45 tokens is worth it: 55 and 15, where apart both ranks have 50 + 5 and more.
    assert shard_families(lengths, families, [45, 45, 5, 5], ranks=2, micro_batch_rollouts=2) == [[[0, 1]], [[2, 3]]]


def test_a_prompt_with_more_siblings_than_a_micro_batch_holds_is_cut() -> None:
    found = shard_families([10] * 6, [1] * 6, [8] * 6, ranks=1, micro_batch_rollouts=4)
    assert sorted(map(len, found[0])) == [2, 4]


def test_families_that_do_not_fit_into_as_few_micro_batches_are_dealt_by_length() -> None:
    lengths = [9, 8, 7, 6, 5, 4, 3, 2]
    assert shard_families(lengths, [1, 1, 1, 2, 2, 2, 3, 3], [2] * 8, ranks=1, micro_batch_rollouts=4) == [[[0, 1, 2, 3], [4, 5, 6, 7]]]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(2, 50), st.integers(0, 3)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from([0, 40, 120]),
)
def test_families_are_dealt_once_within_the_bounds(rows: list[tuple[int, int]], ranks: int, size: int, tokens: int) -> None:
    lengths, families = [length for length, _ in rows], [family for _, family in rows]
    bounds = {"ranks": ranks, "micro_batch_rollouts": size, "micro_batch_tokens": tokens}
    shards = shard_families(lengths, families, [length // 2 for length in lengths], **bounds)
    every = [one for of_rank in shards for one in of_rank]
    assert sorted(place for one in every for place in one) == list(range(len(rows)))
    assert len({len(of_rank) for of_rank in shards}) == 1
    assert len(shards[0]) == len(shard(lengths, **bounds)[0])
    assert all(len(one) <= size if not tokens else len(one) <= 1 or sum(lengths[place] for place in one) <= tokens for one in every)
