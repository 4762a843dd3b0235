"""A rollout is a list of segments: a prompt, the model's turns, and what others wrote in between."""

import numpy as np
import pytest

from oprime.core.types import FinishReason, Rollout, RolloutRecord, WeightVersionSpan, sampled, untrained
from rollouts import of_segments, single_turn

# A prompt, a turn whose last token another version sampled, a tool's answer, a last turn.
FIRST_TURN = sampled(
    [10, 11, 12], [-0.5, -1.5, -2.5], [WeightVersionSpan(start=0, end=2, version=4), WeightVersionSpan(start=2, end=3, version=5)]
)
LAST_TURN = sampled([13], [-3.5], [WeightVersionSpan(start=0, end=1, version=3)])
WITH_A_TOOL = of_segments(7, 2, [untrained([1, 2]), *FIRST_TURN, untrained([20, 21]), *LAST_TURN], finish_reason=FinishReason.LENGTH)


def test_all_tokens_stand_in_order_and_those_of_the_model_are_trained_on() -> None:
    assert WITH_A_TOOL.token_ids.tolist() == [1, 2, 10, 11, 12, 20, 21, 13]
    assert WITH_A_TOOL.is_trained.tolist() == [False, False, True, True, True, False, False, True]
    assert WITH_A_TOOL.trained_ids.tolist() == [10, 11, 12, 13]
    assert WITH_A_TOOL.behaviour_logprobs.tolist() == [-0.5, -1.5, -2.5, -3.5]


def test_the_prompt_is_all_that_stands_before_the_first_turn() -> None:
    assert WITH_A_TOOL.prompt_ids.tolist() == [1, 2]
    system_and_user = of_segments(7, 2, [untrained([1]), untrained([2, 3]), *FIRST_TURN])
    assert system_and_user.prompt_ids.tolist() == [1, 2, 3]


def test_a_turn_has_one_segment_per_weight_version() -> None:
    assert [(one.token_ids.tolist(), one.logprobs.tolist(), one.weight_version, one.trained) for one in FIRST_TURN] == [
        ([10, 11], [-0.5, -1.5], 4, True),
        ([12], [-2.5], 5, True),
    ]


def test_what_others_wrote_has_no_log_probs() -> None:
    segment = untrained([20, 21])
    assert (segment.token_ids.tolist(), segment.trained, len(segment.logprobs)) == ([20, 21], False, 0)


def test_a_record_counts_tokens_and_names_what_is_written() -> None:
    assert WITH_A_TOOL.record(payload="rollout/7:2/name", text="text/7:2/name") == RolloutRecord(
        group_id=7,
        index=2,
        tokens=8,
        trained_tokens=4,
        oldest_weight_version=3,
        newest_weight_version=5,
        finish_reason=FinishReason.LENGTH,
        payload="rollout/7:2/name",
        text="text/7:2/name",
    )


def test_the_versions_of_a_record_are_those_of_the_models_turns_alone() -> None:
    # An untrained segment says 0, which is no version of anything.
    rollout = single_turn(1, 0, [1, 2], [3], version=9)
    record = rollout.record(payload="p", text="t")
    assert (record.oldest_weight_version, record.newest_weight_version) == (9, 9)


def test_single_turn_is_no_special_case() -> None:
    rollout = single_turn(1, 0, [1, 2], [3, 4])
    assert [segment.trained for segment in rollout.segments] == [False, True]
    assert (rollout.prompt_ids.tolist(), rollout.trained_ids.tolist()) == ([1, 2], [3, 4])


@pytest.mark.parametrize("rollout", [WITH_A_TOOL, single_turn(1, 0, [1, 2], [3, 4])], ids=["turns", "single turn"])
def test_arrays_have_the_types_that_travel(rollout: Rollout) -> None:
    assert (rollout.token_ids.dtype, rollout.trained_ids.dtype, rollout.prompt_ids.dtype) == (np.int32,) * 3
    assert rollout.behaviour_logprobs.dtype == np.float32
    assert rollout.is_trained.dtype == np.bool_
