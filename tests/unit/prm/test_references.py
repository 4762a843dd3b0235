"""The frozen reference's log-probs: computed once, the same whenever that is, and read with the rows that need them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from oprime.core.token_rows import TokenRows
from oprime.core.types import Batch, FinishReason, VerifiedRollout
from oprime.lm.batches import RowFetcher, micro_batches
from oprime.lm.frozen import FrozenModel
from oprime.ports import payload_owner
from oprime.runtime.rollout_payloads import read_reference
from oprime_prm import references
from oprime_prm.config import PrmSection
from oprime_prm.references import KnownReferences, References, Unit, complete_units, units_from_bytes, units_of, units_to_bytes
from rollouts import CONTENTS, STORE, content, single_turn, verified
from tiny_models import batch_in_turns, batch_of, plain_logprobs, tiny_model


def rollout(group_id: int, index: int, score: float) -> VerifiedRollout:
    return verified(single_turn(group_id, index, [3], [9]), score)


def ids(units: list[Unit]) -> list[list[str]]:
    return [[record.rollout_id for record in unit] for unit in units]


# What is worth computing ahead


def test_a_unit_is_a_group_in_order_of_its_rollouts_whatever_order_they_were_verified_in() -> None:
    waiting = [rollout(8, 1, 0), rollout(7, 1, 1), rollout(8, 0, 1), rollout(7, 0, 0)]
    assert ids(complete_units(waiting, group_size=2)) == [["7:0", "7:1"], ["8:0", "8:1"]]


def test_a_greedy_baseline_is_a_unit_of_its_own_once_its_group_is_complete() -> None:
    waiting = [rollout(7, 2, 1), rollout(7, 1, 1), rollout(7, 0, 0)]
    assert ids(complete_units(waiting, group_size=2)) == [["7:0", "7:1"], ["7:2"]]
    assert ids(complete_units(waiting[:2], group_size=2)) == []
    assert ids(complete_units(waiting[1:], group_size=2)) == [["7:0", "7:1"]]


def test_a_group_of_one_outcome_waits_until_a_batch_asks_for_it() -> None:
    # The filter will mostly take it out.
    assert complete_units([rollout(7, 0, 1), rollout(7, 1, 1), rollout(7, 2, 0)], group_size=2) == []
    assert complete_units([], group_size=2) == []


def test_the_units_of_a_batch_are_its_groups_and_its_baselines() -> None:
    batch = batch_of(1, groups=2, baselines=True)
    assert ids(units_of(batch)) == [[f"{group}:{index}" for index in range(4)] for group in (10, 11)] + [["10:4"], ["11:4"]]


def test_what_was_computed_ahead_is_what_the_batch_asks_for() -> None:
    # Else it would be computed again, in other micro-batches.
    batch = batch_of(1, baselines=True)
    waiting = [one for group in batch.groups for one in group.issued]
    assert sorted(complete_units(waiting, group_size=4), key=str) == sorted(units_of(batch), key=str)


def test_units_travel_to_the_ranks() -> None:
    (first, *others), *more = units_of(batch_of(1, baselines=True))
    units = [(replace(first, finish_reason=FinishReason.LENGTH), *others), *more]
    assert units_from_bytes(units_to_bytes(units)) == units


# What is known


def test_a_unit_is_missing_until_all_of_its_rollouts_are_known() -> None:
    known, units = KnownReferences(), units_of(batch_of(1, groups=2))
    first, second = units
    known.add({record.payload: f"reference of {record.rollout_id}" for record in first[:3]})
    assert known.missing(units) == units
    known.add({first[3].payload: "reference of 10:3"})
    assert known.missing(units) == [second]
    assert known.of(units) == {record.payload: f"reference of {record.rollout_id}" for record in first}


def test_what_was_used_is_forgotten() -> None:
    known, (unit,) = KnownReferences(), units_of(batch_of(1, groups=1))
    known.add({record.payload: "x" for record in unit})
    known.forget([unit[0].payload, "never known"])
    assert known.missing([unit]) == [unit]
    assert len(known.of([unit])) == 3


def test_a_rollout_that_was_written_again_is_not_known() -> None:
    known, first, again = KnownReferences(), (rollout(7, 0, 1).rollout,), (rollout(7, 0, 1).rollout,)
    known.add({first[0].payload: "x"})
    assert known.missing([first, again]) == [again]


def test_the_oldest_are_forgotten_where_they_were_never_used() -> None:
    known, (old,), (new,) = KnownReferences(), units_of(batch_of(1, groups=1)), units_of(batch_of(2, groups=1))
    known.add({record.payload: "x" for record in old})
    known.add({f"of a rollout that was filtered {number}": "x" for number in range(references.REMEMBERED - 6)})
    known.add({record.payload: "x" for record in new})
    assert known.missing([old, new]) == [old]
    assert len(known.of([old])) == 2


# What is computed


class CountingReference(FrozenModel):
    scored = 0

    def logprobs(self, rows: TokenRows) -> torch.Tensor:
        self.scored += len(rows.input_ids)
        return super().logprobs(rows)


FROZEN = CountingReference(tiny_model(), chunk_tokens=7)


def computing(*, rank: int = 0, ranks: int = 1) -> References:
    """Four siblings fall into two micro-batches."""
    return References(FROZEN, CONTENTS, STORE, PrmSection(micro_batch_rollouts=3), rank=rank, ranks=ranks, pad_id=0)


def computed(units: list[Unit], *, ranks: int = 1, turns: int = 1) -> dict[str, bytes]:
    """Log-probs by rollout, from `ranks` ranks that are asked in several turns."""
    names: dict[str, str] = {}
    for turn in range(turns):
        for rank in range(ranks):
            names |= computing(rank=rank, ranks=ranks).compute(units[turn::turns])
    return {rollout: row.tobytes() for rollout, row in zip(names, read_reference(STORE, list(names.values())), strict=True)}


@pytest.mark.parametrize("made", [batch_of, batch_in_turns])
def test_log_probs_are_the_same_to_the_bit_whenever_and_beside_whatever_they_are_computed(made: Callable[..., Batch]) -> None:
    units = units_of(made(1, baselines=True))
    expected = computed(units)
    assert len(expected) == 15
    assert computed(units[::-1]) == expected
    assert computed(units, turns=len(units)) == expected
    assert computed(units_of(batch_of(2)) + units, ranks=3).items() >= expected.items()


def test_rollouts_of_other_micro_batches_would_differ_in_the_last_bits() -> None:
    # Which is why a unit is never split: what the test above says is no matter of course.
    units = units_of(batch_of(1))
    apart = computed([(record,) for unit in units for record in unit])
    together = computed(units)
    assert apart.keys() == together.keys()
    assert apart != together
    for rollout, row in apart.items():
        np.testing.assert_allclose(np.frombuffer(row, "<f4"), np.frombuffer(together[rollout], "<f4"), atol=1e-5)


def test_ranks_share_the_work_and_every_rollout_passes_the_model_once() -> None:
    units, before = units_of(batch_of(1, baselines=True)), FROZEN.scored
    first, second = (computing(rank=rank, ranks=2).compute(units) for rank in range(2))
    assert not first.keys() & second.keys()
    assert first.keys() | second.keys() == {record.payload for unit in units for record in unit}
    assert FROZEN.scored - before == 15


def test_what_was_computed_is_read_where_it_is_needed() -> None:
    batch, before = batch_in_turns(1, baselines=True), FROZEN.scored
    found = computing()
    found.use(found.compute(units_of(batch)))
    # Dealt as the PRM deals them: over group boundaries.
    records = [one.rollout for one in (*batch.rollouts, *batch.baselines)]
    dealt = micro_batches(records, RowFetcher(CONTENTS, pad_id=0), rank=0, ranks=1, micro_batch_rollouts=4)
    for micro in dealt:
        for _ in range(2):
            logprobs = found(micro)
        assert not logprobs[~micro.rows.is_trained].any()
        expected = torch.cat([plain_logprobs(tiny_model(), content(record)) for record in micro.records]).detach()
        torch.testing.assert_close(logprobs[micro.rows.is_trained], expected, rtol=0, atol=1e-5)
    assert FROZEN.scored - before == len(records), "reading computes nothing"


def test_an_empty_micro_batch_reads_nothing() -> None:
    (empty,) = micro_batches([rollout(7, 0, 1).rollout], RowFetcher(CONTENTS, pad_id=0), rank=1, ranks=2, micro_batch_rollouts=4)
    assert computing()(empty).shape == (0, 0)


def test_a_unit_that_was_filtered_meanwhile_is_left_out_and_the_others_are_not() -> None:
    first, second, third = units_of(batch_of(1))
    STORE.delete([second[2].payload])
    names = computing().compute([first, second, third])
    assert names.keys() == {record.payload for unit in (first, third) for record in unit}
    assert {payload_owner(name) for name in names.values()} == {f"reference/{record.rollout_id}" for record in (*first, *third)}
