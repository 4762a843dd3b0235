"""What is written once and read by name arrives whole, or is refused with its name."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.core.types import Batch, FinishReason, ProcessRewards, Rollout, TokenFloats, VerifiedGroup, VerifiedRollout
from oprime.core.verification import VerificationRequest, scored
from oprime.ports import payload_owner
from oprime.runtime.errors import PayloadsUnavailableError, UnusableInputError
from oprime.runtime.rollout_payloads import (
    RewardWriter,
    material_of,
    payload_names,
    read_reference,
    read_rewards,
    read_rollouts,
    request_of,
    require_present,
    write_reference,
    write_rollouts,
)
from rollouts import in_turns, single_turn

STORE = MemoryPayloads()
ROLLOUTS = [
    in_turns(single_turn(7, index, [3, 4], [5] * length, logprobs=np.linspace(-9, -1, length), version=index, seed=2**40, text=text))
    for index, (length, text) in enumerate([(4, "4"), (1, ""), (6, "vier ✓"), (2, "half a pair: \ud83d")])
]


def batch_of(*lengths: int, baseline: int = 0) -> Batch:
    """One group of rollouts of these lengths, and a baseline if it has a length."""
    records = write_rollouts(STORE, [single_turn(7, index, [3], [5] * length) for index, length in enumerate((*lengths, baseline or 1))])
    *rollouts, greedy = (VerifiedRollout(rollout=record, outcome=scored(1.0)) for record in records)
    group = VerifiedGroup(group_id=7, rollouts=tuple(rollouts), baseline=greedy if baseline else None)
    return Batch(step=3, groups=(group,))


def parts_of(rollout: Rollout) -> list[object]:
    """All of a rollout but its text, comparable."""
    segments = [(one.token_ids.tolist(), one.trained, one.logprobs.tolist(), one.weight_version) for one in rollout.segments]
    return [rollout.group_id, rollout.index, rollout.seed, rollout.finish_reason, segments]


# Rollouts


def test_rollouts_are_written_apart_from_their_texts_and_read_in_any_order() -> None:
    records = write_rollouts(STORE, ROLLOUTS)
    order = [2, 0, 3, 1, 0]
    back = read_rollouts(STORE, [records[place] for place in order])
    assert [parts_of(one) for one in back] == [parts_of(ROLLOUTS[place]) for place in order]
    assert {one.text for one in back} == {""}


def test_a_text_is_read_as_it_was_sampled() -> None:
    records = write_rollouts(STORE, ROLLOUTS)
    texts = STORE.get_many([record.text for record in records])
    assert [text.decode("utf-8", "surrogatepass") for text in texts if text is not None] == [one.text for one in ROLLOUTS]


def test_a_record_says_what_was_written_and_owns_its_payloads() -> None:
    (record,) = write_rollouts(STORE, ROLLOUTS[2:3])
    assert (record.rollout_id, record.trained_tokens, record.oldest_weight_version) == ("7:2", 6, 2)
    assert [payload_owner(name) for name in record.payloads] == ["rollout/7:2", "text/7:2"]


def test_two_workers_that_repeat_a_stage_share_no_name() -> None:
    first, second = (write_rollouts(STORE, ROLLOUTS[:1])[0] for _ in range(2))
    assert not set(first.payloads) & set(second.payloads)


def test_nothing_is_written_or_read_for_nothing() -> None:
    assert write_rollouts(STORE, []) == read_rollouts(STORE, []) == []


def test_a_rollout_that_is_gone_is_named() -> None:
    records = write_rollouts(STORE, ROLLOUTS)
    STORE.delete([records[1].payload])
    with pytest.raises(UnusableInputError, match=rf"payload {records[1].payload} \(the tokens of rollout 7:1\) is gone"):
        read_rollouts(STORE, records)


@pytest.mark.parametrize(
    "change",
    [{"trained_tokens": 3}, {"tokens": 99}, {"newest_weight_version": 5}, {"finish_reason": FinishReason.LENGTH}, {"index": 1}],
    ids=str,
)
def test_a_payload_that_is_not_what_its_record_says_is_refused(change: dict[str, int | FinishReason]) -> None:
    (record,) = write_rollouts(STORE, ROLLOUTS[:1])
    with pytest.raises(UnusableInputError, match=rf"payload {record.payload} holds .*, but what travels says"):
        read_rollouts(STORE, [replace(record, **change)])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"\x0a"], ids=["nothing", "no message", "cut short"])
def test_a_payload_that_is_no_rollout_is_refused(data: bytes) -> None:
    (record,) = write_rollouts(STORE, ROLLOUTS[:1])
    name = STORE.put("rollout/7:0", data)
    with pytest.raises(UnusableInputError, match=rf"payload {name} \({len(data)} bytes\) is no readable rollout"):
        read_rollouts(STORE, [replace(record, payload=name)])


def test_what_a_batch_needs_is_looked_for_without_being_read() -> None:
    batch = batch_of(2, 3, baseline=1)
    names = payload_names(batch)
    assert [payload_owner(name) for name in names] == [f"{kind}/7:{index}" for index in range(3) for kind in ("rollout", "text")]
    require_present(STORE, names, "batch 3")
    STORE.delete(names[3:4])
    with pytest.raises(UnusableInputError, match=rf"payload {names[3]} \(batch 3\) is gone"):
        require_present(STORE, names, "batch 3")


# What verifiers need


def test_what_a_verifier_needs_comes_back() -> None:
    request = VerificationRequest(kind="a plug-in", response="", golds=("4",), tests="[]", options={"n": 3}, prompt="2 + 2?")
    assert request_of(material_of(request), name="task/7/x") == request


def test_bytes_that_are_no_request_are_refused() -> None:
    with pytest.raises(UnusableInputError, match=r"payload task/7/x \(3 bytes\) is no readable VerifyRequest"):
        request_of(b"\xff\xff\xff", name="task/7/x")


# Token rewards


def rewards_of(batch: Batch) -> list[TokenFloats]:
    """Of all rollouts, then of all baselines."""
    dice = np.random.default_rng(0)
    return [dice.normal(size=one.rollout.trained_tokens).astype(np.float32) for one in (*batch.rollouts, *batch.baselines)]


def written(batch: Batch, places: Sequence[int], *, most_bytes: int = 1000) -> list[str]:
    """Names of what one rank wrote of the rewards."""
    writer, values = RewardWriter(STORE, batch.step, most_bytes=most_bytes), rewards_of(batch)
    for place in places:
        writer.add(place, values[place])
    return writer.finish()


def lists(rewards: ProcessRewards) -> list[list[float]]:
    return [values.tolist() for values in (*rewards.rollouts, *rewards.baselines)]


def test_rewards_of_several_ranks_come_back_in_the_order_of_the_batch_baselines_last() -> None:
    batch = batch_of(3, 1, 4, baseline=2)
    names = [*written(batch, [3, 1]), *written(batch, [2, 0])]
    found = read_rewards(STORE, names, batch)
    assert lists(found) == [values.tolist() for values in rewards_of(batch)]
    assert (len(found.rollouts), len(found.baselines)) == (3, 1)
    assert {payload_owner(name) for name in names} == {"rewards/3"}


@pytest.mark.parametrize(("most_bytes", "payloads"), [(1, 4), (16, 3), (24, 2), (1000, 1)])
def test_rewards_are_split_into_payloads_of_bounded_size(most_bytes: int, payloads: int) -> None:
    # 12, 4, 16 and 8 bytes: a payload ends with the rollout that fills it.
    batch = batch_of(3, 1, 4, 2)
    names = written(batch, range(4), most_bytes=most_bytes)
    assert len(names) == len(set(names)) == payloads
    assert lists(read_rewards(STORE, names, batch)) == [values.tolist() for values in rewards_of(batch)]


def test_a_rank_without_rollouts_writes_nothing() -> None:
    assert RewardWriter(STORE, 3).finish() == []


def test_rewards_that_are_gone_are_named() -> None:
    batch = batch_of(3, 1)
    (name,) = written(batch, range(2))
    STORE.delete([name])
    with pytest.raises(UnusableInputError, match=rf"payload {name} \(token rewards of batch 3\) is gone"):
        read_rewards(STORE, [name], batch)


def test_rewards_that_a_rank_did_not_write_are_missed() -> None:
    batch = batch_of(3, 1)
    with pytest.raises(UnusableInputError, match="batch 3: rollout 7:1 has 0 token rewards for 1 trained tokens"):
        read_rewards(STORE, written(batch, [0]), batch)
    with pytest.raises(UnusableInputError, match="batch 3: rollout 7:0 has 0 token rewards for 3 trained tokens"):
        read_rewards(STORE, [], batch)


def test_rewards_of_another_batch_are_refused() -> None:
    longer, more = batch_of(4, 1), batch_of(3, 1, 1)
    with pytest.raises(UnusableInputError, match="batch 3: rollout 7:0 has 4 token rewards for 3 trained tokens"):
        read_rewards(STORE, written(longer, range(2)), batch_of(3, 1))
    with pytest.raises(UnusableInputError, match="batch 3: there are token rewards of 3 rollouts, but it has 2"):
        read_rewards(STORE, written(more, range(3)), batch_of(3, 1))


@pytest.mark.parametrize("kept", [3, 15, 16, 18, 20, 27, 28, 35, 45])
def test_rewards_that_are_cut_short_are_refused(kept: int) -> None:
    # Two rollouts, each with 16 bytes before its rewards of 12 and 4 bytes.
    batch = batch_of(3, 1)
    (whole,) = STORE.get_many(written(batch, range(2)))
    assert whole is not None
    assert len(whole) == 48
    name = STORE.put("rewards/3", whole[:kept])
    with pytest.raises(
        UnusableInputError, match=rf"payload {name} \({kept} bytes\) holds no readable token rewards|7:1 has 0 token rewards"
    ):
        read_rewards(STORE, [name], batch)


def test_rewards_with_a_size_that_cannot_be_are_refused() -> None:
    batch = batch_of(3)
    name = STORE.put("rewards/3", np.asarray([0, -16], dtype="<i8").tobytes())
    with pytest.raises(UnusableInputError, match=rf"payload {name} \(16 bytes\) holds no readable token rewards"):
        read_rewards(STORE, [name], batch)


# Reference log-probs


def test_reference_log_probs_come_back_to_the_bit() -> None:
    batch = batch_of(3, 1)
    values = [(one.rollout, row) for one, row in zip(batch.rollouts, rewards_of(batch), strict=True)]
    names = write_reference(STORE, values)
    assert [payload_owner(name) for name in names] == ["reference/7:0", "reference/7:1"]
    assert [row.tolist() for row in read_reference(STORE, names[::-1])] == [row.tolist() for _, row in values[::-1]]


def test_reference_log_probs_that_are_gone_or_cut_short_are_named() -> None:
    name = STORE.put("reference/7:0", b"123")
    with pytest.raises(UnusableInputError, match=rf"payload {name} \(3 bytes\) holds no readable reference log-probs"):
        read_reference(STORE, [name])
    STORE.delete([name])
    with pytest.raises(UnusableInputError, match=rf"payload {name} \(reference log-probs\) is gone"):
        read_reference(STORE, [name])


# A store that is away


class AwayOnce(MemoryPayloads):
    """Does not answer the first time that something is read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        self.asked += 1
        if self.asked == 1:
            raise PayloadsUnavailableError("no answer")
        return super().get_many(names)


def test_a_rank_asks_again_while_the_store_is_away() -> None:
    store = AwayOnce()
    (rollout,) = read_rollouts(store, write_rollouts(store, ROLLOUTS[:1]))
    assert (rollout.rollout_id, store.asked) == ("7:0", 2)
