"""Rollouts and their records over the wire, and what is refused on arrival."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.types import FinishReason, Rollout, Segment, VerificationTask
from oprime.wire.codec import (
    record_from_proto,
    record_to_proto,
    rollout_from_proto,
    rollout_to_proto,
    verification_task_from_proto,
    verification_task_to_proto,
)
from oprime_proto.v1 import common_pb2 as pb
from rollouts import of_segments

# Trained or not, number of tokens, weight version; after a prompt and a first turn.
SEGMENTS = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2**40)), max_size=6)


def segment(trained: bool, tokens: int, version: int = 0) -> Segment:
    ids = np.arange(tokens, dtype=np.int32) + 2**30
    logprobs = np.linspace(-3, 0, tokens if trained else 0, dtype=np.float32)
    return Segment(token_ids=ids, trained=trained, logprobs=logprobs, weight_version=version)


def rollout(*segments: Segment) -> Rollout:
    return of_segments(3, 1, segments, seed=2**40, text="4 ✓", finish_reason=FinishReason.LENGTH)


def plain(one: Rollout) -> list[object]:
    """All of a rollout, comparable."""
    segments = [(part.token_ids.tolist(), part.trained, part.logprobs.tolist(), part.weight_version) for part in one.segments]
    return [one.group_id, one.index, one.seed, one.text, one.finish_reason, segments]


def arrived(message: pb.Rollout) -> Rollout:
    return rollout_from_proto(pb.Rollout.FromString(message.SerializeToString()))


@given(SEGMENTS)
def test_a_rollout_of_any_segments_arrives_as_it_was_sent(more: list[tuple[bool, int, int]]) -> None:
    sent = rollout(segment(False, 2), segment(True, 3, 7), *(segment(*one) for one in more))
    assert plain(arrived(rollout_to_proto(sent))) == plain(sent)


@pytest.mark.parametrize(
    ("trained", "tokens", "logprobs", "rule"),
    [(True, 3, 2, "one per token is needed"), (True, 0, 1, "one per token is needed"), (False, 2, 2, "it is not trained on, and has none")],
)
def test_a_segment_with_the_wrong_number_of_log_probs_is_named(trained: bool, tokens: int, logprobs: int, rule: str) -> None:
    bad = replace(segment(trained, tokens), logprobs=np.zeros(logprobs, dtype=np.float32))
    with pytest.raises(ValueError, match=rf"segment 2 of rollout 3:1 has {tokens} tokens and {logprobs} log-probabilities: {rule}"):
        arrived(rollout_to_proto(rollout(segment(False, 1), segment(True, 1), bad)))


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [segment(False, 3)],
        [segment(True, 3)],
        [segment(True, 1), segment(False, 1)],
        [segment(False, 0), segment(True, 3), segment(False, 2)],
        [segment(False, 2), segment(True, 0)],
    ],
    ids=["nothing", "a prompt alone", "no prompt", "a turn before the prompt", "an empty prompt", "an empty response"],
)
def test_a_rollout_needs_tokens_that_are_not_trained_on_and_then_some_that_are(segments: list[Segment]) -> None:
    with pytest.raises(ValueError, match=r"rollout 3:1 .*: it needs .* not trained on, then .*"):
        arrived(rollout_to_proto(rollout(*segments)))


RECORD = rollout(segment(False, 2), segment(True, 3, 7), segment(False, 1), segment(True, 1, 9)).record(
    payload="rollout/3:1/x", text="text/3:1/x"
)


def test_a_record_arrives_as_it_was_sent() -> None:
    assert record_from_proto(pb.RolloutRecord.FromString(record_to_proto(RECORD).SerializeToString())) == RECORD
    task = VerificationTask(rollout=RECORD, material="task/3/x")
    assert verification_task_from_proto(verification_task_to_proto(task)) == task


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trained_tokens": 0}, "7 tokens, 0 of them trained on"),
        ({"trained_tokens": 7}, "7 tokens, 7 of them trained on"),
        ({"oldest_weight_version": 10}, "weight versions 10 to 9"),
        ({"payload": ""}, "names no payload: tokens '', text 'text/3:1/x'"),
        ({"text": ""}, "names no payload: tokens 'rollout/3:1/x', text ''"),
    ],
    ids=str,
)
def test_a_record_of_what_cannot_be_is_refused(changes: dict[str, int | str], said: str) -> None:
    with pytest.raises(ValueError, match=rf"rollout 3:1 .*{said}"):
        record_from_proto(record_to_proto(replace(RECORD, **changes)))


def test_an_empty_message_is_neither() -> None:
    with pytest.raises(KeyError):
        rollout_from_proto(pb.Rollout())
    with pytest.raises(KeyError):
        record_from_proto(pb.RolloutRecord())
