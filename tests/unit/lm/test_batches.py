"""Micro-batches: fetched when they are needed, one at a time, and kept for the next pass while there is room."""

from collections.abc import Sequence

import pytest
import torch

from oprime.core.types import Rollout, RolloutRecord, untrained
from oprime.lm.batches import MicroBatch, RowFetcher, RowsOf, by_place, empty_matrix, micro_batches
from oprime.lm.token_logprobs import TokenLogprobModel
from plain_engine import PlainEngine
from rollouts import CONTENTS, of_segments, single_turn, written
from tiny_models import tiny_model

PAD = 9


class Store:
    """Counts what is read."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []

    def __call__(self, records: Sequence[RolloutRecord]) -> list[Rollout]:
        self.reads.append([record.rollout_id for record in records])
        return CONTENTS(records)


def record(index: int, *, tokens: int = 4) -> RolloutRecord:
    return written(single_turn(1, index, [3], [10 + index] * (tokens - 1)))


def micro(fetcher: RowFetcher, *records: RolloutRecord) -> MicroBatch:
    return MicroBatch(positions=list(range(len(records))), records=list(records), fetcher=fetcher)


def in_turns() -> RolloutRecord:
    """Prompt 3, turn 10 11, a tool's 20, turn 12."""
    first, last = (single_turn(1, 0, [3], ids, logprobs=values).segments[1] for ids, values in (([10, 11], [-1, -2]), ([12], [-3])))
    return written(of_segments(1, 0, [untrained([3]), first, untrained([20]), last]))


def test_rows_have_all_tokens_and_behaviour_those_that_are_trained_on() -> None:
    fetched = RowFetcher(CONTENTS, pad_id=PAD).fetch([in_turns(), record(1, tokens=3)])
    assert fetched.rows.input_ids.tolist() == [[3, 10, 11, 20, 12], [3, 11, 11, PAD, PAD]]
    assert fetched.rows.is_trained.tolist() == [[False, True, True, False, True], [False, True, True, False, False]]
    assert fetched.behaviour.tolist() == [[0, -1, -2, 0, -3], [0, -1, -1, 0, 0]]


def test_what_was_fetched_is_kept_for_the_next_pass() -> None:
    store, records = Store(), [record(0), record(1)]
    batch = micro(RowFetcher(store, pad_id=PAD), *records)
    assert batch.rows is batch.rows
    assert batch.behaviour is batch.behaviour
    assert store.reads == [["1:0", "1:1"]]


def test_beyond_its_room_a_fetcher_lets_go_of_what_was_not_asked_for_longest() -> None:
    store, (first, second, third) = Store(), [[record(index)] for index in range(3)]
    fetcher = RowFetcher(store, pad_id=PAD, kept_tokens=8)  # two of four tokens each
    for records in (first, second, first, third, first, second):
        fetcher.fetch(records)
    assert store.reads == [["1:0"], ["1:1"], ["1:2"], ["1:1"]]


def test_the_newest_stays_however_large_it_is() -> None:
    store, large = Store(), [record(0, tokens=100)]
    fetcher = RowFetcher(store, pad_id=PAD, kept_tokens=8)
    fetcher.fetch([record(1)])
    assert fetcher.fetch(large) is fetcher.fetch(large)
    assert store.reads == [["1:1"], ["1:0"]]


def test_padding_takes_room_too() -> None:
    store = Store()
    fetcher = RowFetcher(store, pad_id=PAD, kept_tokens=10)
    uneven, small = [record(0, tokens=5), record(1, tokens=2)], [record(2, tokens=2)]  # 2 rows of 5, and 2 tokens
    for records in (uneven, small, uneven):
        fetcher.fetch(records)
    assert len(store.reads) == 3


def test_a_rollout_that_is_written_again_is_another() -> None:
    # Its name says so: a repetition of a stage writes under a name of its own.
    fetcher = RowFetcher(CONTENTS, pad_id=PAD)
    assert fetcher.fetch([record(0)]).rows.input_ids.shape == (1, 4)
    assert fetcher.fetch([record(0, tokens=5)]).rows.input_ids.shape == (1, 5)


def test_rows_are_fetched_when_they_are_asked_for() -> None:
    store = Store()
    fetcher = RowFetcher(store, pad_id=PAD, kept_tokens=0)
    rows = RowsOf([micro(fetcher, record(index)) for index in range(3)])
    assert (len(rows), len(rows[1:]), store.reads) == (3, 2, [])
    assert rows[1].input_ids[0, 1] == 11
    assert rows[1:][1].input_ids[0, 1] == 12
    assert store.reads == [["1:1"], ["1:2"]]
    with pytest.raises(IndexError):
        rows[3]


def test_a_train_step_has_one_micro_batch_at_a_time() -> None:
    events: list[str] = []

    def contents(records: Sequence[RolloutRecord]) -> list[Rollout]:
        events.append(f"fetch {records[0].index}")
        return CONTENTS(records)

    fetcher = RowFetcher(contents, pad_id=PAD, kept_tokens=0)
    batches = [micro(fetcher, record(index)) for index in range(3)]

    def loss(index: int, logprobs: torch.Tensor) -> torch.Tensor:
        events.append(f"loss {index}")
        assert batches[index].rows.is_trained.any(), "what is at hand is not fetched again"
        return -logprobs.sum()

    engine = PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    engine.train_step(RowsOf(batches), loss, learning_rate=1e-3)
    assert events == ["fetch 0", "loss 0", "fetch 1", "loss 1", "fetch 2", "loss 2"]


def test_ranks_without_rollouts_get_empty_micro_batches_and_fetch_nothing() -> None:
    store = Store()
    fetcher = RowFetcher(store, pad_id=PAD)
    (first,), (second,), (third,) = (
        micro_batches([record(0), record(1)], fetcher, rank=rank, ranks=3, micro_batch_rollouts=2) for rank in range(3)
    )
    assert ([first.positions, second.positions, third.positions]) == [[0], [1], []]
    assert third.rows.input_ids.shape == third.rows.is_trained.shape == third.behaviour.shape == empty_matrix(third).shape == (0, 0)
    assert list(by_place([third], [torch.zeros(0, 0)])) == []
    assert store.reads == []


def test_micro_batches_are_dealt_by_the_tokens_of_the_records_alone() -> None:
    store, records = Store(), [record(0, tokens=3), record(1, tokens=9), record(2, tokens=8), record(3, tokens=2)]
    batches = micro_batches(records, RowFetcher(store, pad_id=PAD), rank=0, ranks=1, micro_batch_rollouts=2)
    assert [batch.positions for batch in batches] == [[1, 2], [0, 3]]
    assert [batch.trained_tokens for batch in batches] == [[8, 7], [2, 1]]
    assert [empty_matrix(batch).shape for batch in batches] == [batch.rows.input_ids.shape for batch in batches] == [(2, 9), (2, 3)]


def test_values_find_the_place_of_their_rollout_without_those_of_untrained_tokens() -> None:
    fetcher = RowFetcher(CONTENTS, pad_id=PAD)
    first = MicroBatch(positions=[2, 0], records=[in_turns(), record(1, tokens=3)], fetcher=fetcher)
    second = MicroBatch(positions=[1], records=[record(2, tokens=2)], fetcher=fetcher)
    matrices = [torch.tensor([[0.0, 1, 2, 99, 3], [99, 4, 5, 99, 99]]), torch.tensor([[99.0, 6]])]
    found = {place: values.tolist() for place, values in by_place([first, second], matrices, first=10)}
    assert found == {12: [1, 2, 3], 10: [4, 5], 11: [6]}


def test_a_matrix_per_micro_batch_is_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(by_place([micro(RowFetcher(CONTENTS, pad_id=PAD), record(0))], []))
