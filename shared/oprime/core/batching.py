"""How a batch is cut into optimizer steps, ranks and micro-batches. None of it changes the result, only memory and speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")

Shards = list[list[list[int]]]
"""`shards[rank][micro_batch]` is a list of rollout positions; an empty list is an empty micro-batch."""


def split_groups(groups: Sequence[Item], updates_per_batch: int) -> list[list[Item]]:
    """Cut groups, in order, into one part per optimizer step; sizes differ by at most one, larger parts first.

    Raises ValueError unless there is at least one group per part.
    """
    if not 1 <= updates_per_batch <= len(groups):
        raise ValueError(
            f"updates_per_batch ({updates_per_batch}) must be from 1 to the number of groups in a batch ({len(groups)}): "
            "each optimizer step needs a group"
        )
    return [[groups[place] for place in part] for part in _even_parts(len(groups), updates_per_batch)]


def shard(lengths: Sequence[int], *, ranks: int, micro_batch_rollouts: int, micro_batch_tokens: int = 0) -> Shards:
    """Deal the rollouts of one optimizer step to ranks and micro-batches of at most `micro_batch_rollouts`.

    Every rank gets equally many micro-batches, as few as possible; where rollouts do not suffice, some are empty. Rollouts
    of similar length (`lengths`, in tokens) share a micro-batch, and micro-batches that run at the same time on different
    ranks are of similar length: that saves padding and waiting. The same lengths always give the same shards.

    With `micro_batch_tokens` above 0 that bounds the tokens of a micro-batch instead: long and short rollouts share one, so that all
    are of similar size; a rollout beyond the bound is alone.
    """
    if ranks < 1 or micro_batch_rollouts < 1:
        raise ValueError(f"ranks ({ranks}) and micro_batch_rollouts ({micro_batch_rollouts}) must be positive")
    if micro_batch_tokens < 0:
        raise ValueError(f"micro_batch_tokens ({micro_batch_tokens}) must be positive, or 0 to count rollouts")
    longest_first = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    if micro_batch_tokens:
        micro_batches = _balanced_bins(longest_first, lengths, ranks=ranks, most=micro_batch_tokens)
    else:
        rounds = -(-len(lengths) // (ranks * micro_batch_rollouts))
        micro_batches = [[longest_first[place] for place in part] for part in _even_parts(len(lengths), rounds * ranks)]
    return [micro_batches[rank::ranks] for rank in range(ranks)]


def shard_families(
    lengths: Sequence[int],
    families: Sequence[int],
    prompts: Sequence[int],
    *,
    ranks: int,
    micro_batch_rollouts: int,
    micro_batch_tokens: int = 0,
) -> Shards:
    """As `shard`, for a model that computes a prompt once for all siblings of a micro-batch: they stay together where that saves time.

    `families[i]` and `prompts[i]` are the number of rollout i's prompt and its tokens. Siblings are apart where keeping them together
    would take more micro-batches, or make the ranks that wait for each other wait longer than prompts are worth.
    """
    apart = shard(lengths, ranks=ranks, micro_batch_rollouts=micro_batch_rollouts, micro_batch_tokens=micro_batch_tokens)
    most = _Most(rollouts=0 if micro_batch_tokens else micro_batch_rollouts, tokens=micro_batch_tokens)

    def computed(places: Sequence[int]) -> int:
        return sum(lengths[place] for place in places) - _saved(places, families, prompts)

    siblings: dict[int, list[int]] = {}
    for place, family in enumerate(families):
        siblings.setdefault(family, []).append(place)
    pieces = [piece for places in siblings.values() for piece in _pieces(places, lengths, most)]
    pieces.sort(key=lambda piece: (-computed(piece), piece))
    bins = _fill(pieces, lengths, computed, bins=ranks * len(apart[0]), most=most)
    if bins is None:
        return apart
    together = [bins[rank::ranks] for rank in range(ranks)]
    # A round takes as long as its busiest rank.
    return min(together, apart, key=lambda shards: sum(max(map(computed, one)) for one in zip(*shards, strict=True)))


def padded_passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Positions of the rows of each padded pass of at most `most_tokens`, padding included; a longer row is alone. Longest rows first."""
    passes: list[list[int]] = []
    widest = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if not passes or widest * (len(passes[-1]) + 1) > most_tokens:
            passes.append([])
            widest = lengths[place]
        passes[-1].append(place)
    return passes


def chunk_of_each(count: int, chunks: int) -> list[int]:
    """Number of the chunk that each of `count` items falls into when they are cut, in order, into even chunks."""
    return [chunk for chunk, part in enumerate(_even_parts(count, chunks)) for _ in part]


def _balanced_bins(longest_first: Sequence[int], lengths: Sequence[int], *, ranks: int, most: int) -> list[list[int]]:
    """As few bins, a multiple of `ranks`, as keep to `most` tokens when each item in turn joins the lightest bin; heaviest bins first."""
    rounds = -(-sum(min(length, most) for length in lengths) // (ranks * most))
    while True:
        bins: list[list[int]] = [[] for _ in range(rounds * ranks)]
        lightest = [(0, number) for number in range(len(bins))]
        for place in longest_first:
            load, number = heappop(lightest)
            bins[number].append(place)
            heappush(lightest, (load + lengths[place], number))
        loads = [sum(lengths[place] for place in members) for members in bins]
        if all(load <= most or len(members) == 1 for load, members in zip(loads, bins, strict=True)):
            return [bins[number] for number in sorted(range(len(bins)), key=lambda number: (-loads[number], number))]
        rounds += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Most:
    """What a micro-batch may hold; 0 is no bound."""

    rollouts: int
    tokens: int

    def allows(self, rollouts: int, tokens: int) -> bool:
        return not (self.rollouts and rollouts > self.rollouts) and not (self.tokens and tokens > self.tokens and rollouts > 1)


def _saved(places: Sequence[int], families: Sequence[int], prompts: Sequence[int]) -> int:
    """Tokens of prompts that are not computed again within a micro-batch."""
    first = {families[place]: prompts[place] for place in places}
    return sum(prompts[place] for place in places) - sum(first.values())


def _pieces(places: Sequence[int], lengths: Sequence[int], most: _Most) -> list[list[int]]:
    """Siblings in as few pieces as a micro-batch allows, in order."""
    pieces: list[list[int]] = [[]]
    for place in places:
        if not most.allows(len(pieces[-1]) + 1, sum(lengths[one] for one in pieces[-1]) + lengths[place]):
            pieces.append([])
        pieces[-1].append(place)
    return pieces


def _fill(
    pieces: Sequence[list[int]], lengths: Sequence[int], computed: Callable[[Sequence[int]], int], *, bins: int, most: _Most
) -> list[list[int]] | None:
    """Each piece in turn joins the lightest bin that has room for it; heaviest bins first. None where a piece finds no room."""
    filled: list[list[int]] = [[] for _ in range(bins)]
    loads = [0] * bins
    for piece in pieces:
        room = [
            number
            for number, members in enumerate(filled)
            if most.allows(len(members) + len(piece), sum(lengths[place] for place in [*members, *piece]))
        ]
        if not room:
            return None
        number = min(room, key=loads.__getitem__)
        filled[number] += piece
        loads[number] += computed(piece)
    return [filled[number] for number in sorted(range(bins), key=lambda number: (-loads[number], number))]


def _even_parts(count: int, parts: int) -> list[range]:
    """Cut range(count) into contiguous parts whose sizes differ by at most one, larger ones first."""
    size, larger = divmod(count, parts) if parts else (0, 0)
    starts = [part * size + min(part, larger) for part in range(parts + 1)]
    return [range(start, end) for start, end in pairwise(starts)]
