"""A batch's rollouts as rows for the model, spread over ranks and micro-batches, and fetched when they are needed."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import torch
from torch import Tensor

from oprime.core.batching import Shards, shard, shard_families
from oprime.core.token_rows import TokenRows, response_matrix, token_rows_of
from oprime.core.types import Rollout, RolloutRecord

Contents = Callable[[Sequence[RolloutRecord]], list[Rollout]]
"""Fetches whole rollouts by their records, in order."""

KEPT_TOKENS = 4_000_000
"""Fetched rows stay for the next pass over them, up to this many tokens (14 bytes each) per process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    rows: TokenRows
    behaviour: Tensor
    """log pi_behaviour of the tokens that are trained on, [rollout, token] float32."""


class RowFetcher:
    """Fetches micro-batches, and keeps the newest ones."""

    def __init__(self, contents: Contents, *, pad_id: int, kept_tokens: int = KEPT_TOKENS) -> None:
        self._contents = contents
        self._pad_id = pad_id
        self._kept_tokens = kept_tokens
        self._kept: OrderedDict[tuple[str, ...], Fetched] = OrderedDict()

    def fetch(self, records: Sequence[RolloutRecord]) -> Fetched:
        key = tuple(record.payload for record in records)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        rollouts = self._contents(records) if records else []
        rows = token_rows_of([one.token_ids for one in rollouts], [one.is_trained for one in rollouts], pad_id=self._pad_id)
        fetched = Fetched(rows=rows, behaviour=response_matrix([one.behaviour_logprobs for one in rollouts], rows.is_trained))
        self._kept[key] = fetched
        while len(self._kept) > 1 and sum(one.rows.input_ids.numel() for one in self._kept.values()) > self._kept_tokens:
            self._kept.popitem(last=False)
        return fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    positions: list[int]
    """Places of its rows in the list of rollouts that was dealt."""
    records: list[RolloutRecord]
    fetcher: RowFetcher

    @property
    def rows(self) -> TokenRows:
        return self.fetcher.fetch(self.records).rows

    @property
    def behaviour(self) -> Tensor:
        return self.fetcher.fetch(self.records).behaviour

    @property
    def trained_tokens(self) -> list[int]:
        return [record.trained_tokens for record in self.records]


class RowsOf(Sequence[TokenRows]):
    """The rows of micro-batches, each fetched when it is asked for: an engine's `train_step` has one at a time."""

    def __init__(self, batches: Sequence[MicroBatch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, index: int) -> TokenRows: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TokenRows]: ...
    def __getitem__(self, index: int | slice) -> TokenRows | Sequence[TokenRows]:
        return RowsOf(self._batches[index]) if isinstance(index, slice) else self._batches[index].rows


def micro_batches(
    records: Sequence[RolloutRecord],
    fetcher: RowFetcher,
    *,
    rank: int,
    ranks: int,
    micro_batch_rollouts: int,
    micro_batch_tokens: int = 0,
    shares_prompts: bool = False,
) -> list[MicroBatch]:
    """This rank's micro-batches; every rank gets equally many, some of them empty. With `shares_prompts` siblings stay together."""
    lengths = [record.tokens for record in records]
    deal = partial(_by_family, records) if shares_prompts else shard
    shards = deal(lengths, ranks=ranks, micro_batch_rollouts=micro_batch_rollouts, micro_batch_tokens=micro_batch_tokens)
    return [MicroBatch(positions=positions, records=[records[place] for place in positions], fetcher=fetcher) for positions in shards[rank]]


def _by_family(records: Sequence[RolloutRecord], lengths: Sequence[int], **most: int) -> Shards:
    # What others wrote into the middle of responses counts as prompt here: records do not tell them apart.
    return shard_families(lengths, [one.group_id for one in records], [one.tokens - one.trained_tokens for one in records], **most)


def empty_matrix(batch: MicroBatch) -> Tensor:
    """Zeros in the shape of a micro-batch's rows, [rollout, token] float32; fetches nothing."""
    return torch.zeros(len(batch.records), max((record.tokens for record in batch.records), default=0))


def by_place(batches: Sequence[MicroBatch], matrices: Sequence[Tensor], *, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Place of each rollout in the batch, with its values of the tokens that are trained on; `first` is that of the first one dealt."""
    for batch, matrix in zip(batches, matrices, strict=True):
        values = torch.split(matrix[batch.rows.is_trained], batch.trained_tokens) if batch.records else ()
        for position, own in zip(batch.positions, values, strict=True):
            yield first + position, own
