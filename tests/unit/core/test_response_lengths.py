"""What became of rollouts, by the length of their responses."""

import pytest

from oprime.core.response_lengths import bucket_of, fate_and_bucket, long_ones_are_lost, metric_name, rollouts_by_length


@pytest.mark.parametrize(("tokens", "bucket"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (10**7, 2**20)])
def test_buckets_end_at_powers_of_two(tokens: int, bucket: int) -> None:
    assert bucket_of(tokens) == bucket


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="a response of 0 tokens has no bucket"):
        bucket_of(0)


def test_the_name_of_a_metric_can_be_read_again() -> None:
    assert metric_name("stale", 700) == "stale_to_1024_tokens"
    assert fate_and_bucket("stale_to_1024_tokens") == ("stale", 1024)
    for other in ("trained_tokens", "trained_tokens_mean", "stale_to_many_tokens", "other_to_8_tokens", "stale_to_8"):
        assert fate_and_bucket(other) is None


def test_rows_add_up_to_a_table() -> None:
    rows = [
        {"step": 1, "trained_to_16_tokens": 3.0, "stale_to_64_tokens": 1.0},
        {"step": 2, "trained_to_16_tokens": 2.0, "trained_to_8_tokens": None},
    ]
    assert rollouts_by_length(rows) == {16: {"trained": 5}, 64: {"stale": 1}}


def test_long_responses_that_become_stale_more_often_than_short_ones_are_noticed() -> None:
    # 30 of 40 long ones and 5 of 100 short ones were lost: 75 % and 5 %.
    table = {64: {"trained": 95, "stale": 5}, 128: {"trained": 10, "stale": 30}}
    said = long_ones_are_lost(table)
    assert said.startswith("75% of the rollouts with more than 64 response tokens became stale")
    assert "of the shorter ones 5%" in said
    assert "staleness.max_staleness" in said


@pytest.mark.parametrize(
    "table",
    [
        {},
        {64: {"trained": 95, "stale": 5}},
        {64: {"trained": 95, "stale": 5}, 128: {"trained": 36, "stale": 4}},  # 10 % against 5 %
        {64: {"trained": 10, "stale": 30}, 128: {"trained": 10, "stale": 30}},  # all lengths alike
        {64: {"trained": 31}, 128: {"stale": 40}},  # too few short ones to compare with
        {64: {"trained": 95}, 128: {"stale": 3}},  # the few long ones are looked at with those before them
    ],
)
def test_no_difference_or_too_few_rollouts_say_nothing(table: dict[int, dict[str, int]]) -> None:
    assert long_ones_are_lost(table) == ""


def test_the_longest_buckets_are_taken_together_until_they_say_something() -> None:
    table = {64: {"trained": 100}, 128: {"stale": 20}, 256: {"stale": 20}, 512: {"filtered": 9}}
    assert long_ones_are_lost(table).startswith("100% of the rollouts with more than 64 ")
