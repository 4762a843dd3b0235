import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime_gateway.rewards import (
    How,
    Reduction,
    SpansError,
    TokenRewards,
    chars_of_steps,
    check_partition,
    ranges_of_texts,
    reduce_rewards,
    sequence_reward,
    split_at_delimiter,
    step_rewards,
    tokens_of_steps,
)


def scored(texts: list[str], rewards: list[float]) -> TokenRewards:
    count = len(texts)
    return TokenRewards(
        ids=tuple(range(count)),
        rewards=tuple(rewards),
        logprobs=(-1.0,) * count,
        reference_logprobs=(-2.0,) * count,
        texts=tuple(texts),
        char_ranges=ranges_of_texts(texts),
        has_end_token=not texts[-1],
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one\n\ntwo\n\nthree", ["one\n\n", "two\n\n", "three"]),
        ("one\n\ntwo\n\n", ["one\n\n", "two\n\n"]),
        ("one\n\n\n\ntwo", ["one\n\n\n\n", "two"]),
        ("one\n\n\ntwo", ["one\n\n", "\ntwo"]),
        ("\n\n\n\none\n\ntwo", ["\n\n\n\none\n\n", "two"]),
        ("\n\n", ["\n\n"]),
        ("one", ["one"]),
        ("", [""]),
        ("\U0001f600\n\né", ["\U0001f600\n\n", "é"]),
    ],
)
def test_a_step_ends_with_its_delimiters(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in split_at_delimiter(text, "\n\n")] == parts


def test_the_delimiter_is_text_and_not_a_pattern() -> None:
    assert split_at_delimiter("a.b", ".") == ((0, 2), (2, 3))
    assert split_at_delimiter("a+b", "+") == ((0, 2), (2, 3))


def test_an_empty_delimiter_is_refused() -> None:
    with pytest.raises(SpansError, match=r"steps\.delimiter is empty"):
        split_at_delimiter("a", "")


def test_a_token_belongs_to_the_step_in_which_it_begins() -> None:
    # "ab.cd": the second token lies across the cut after the point and begins before it.
    tokens = scored(["a", "b.c", "d", ""], [1.0, 2.0, 4.0, 8.0])
    steps = split_at_delimiter("ab.cd", ".")
    assert tokens_of_steps(tokens.char_ranges, steps) == ((0, 2), (2, 4))
    assert step_rewards(tokens, steps, ((0, 2), (2, 4)), How()).rewards == (3.0, 12.0)


def test_a_step_inside_one_token_has_no_tokens() -> None:
    tokens = scored(["a.b.c"], [3.0])
    steps = split_at_delimiter("a.b.c", ".")
    ranges = tokens_of_steps(tokens.char_ranges, steps)
    assert ranges == ((0, 1), (1, 1), (1, 1))
    assert step_rewards(tokens, steps, ranges, How()).rewards == (3.0, 0.0, 0.0)
    assert step_rewards(tokens, steps, ranges, How(reduction=Reduction.MIN)).rewards == (3.0, None, None)
    assert sequence_reward((3.0, None, None), How(reduction=Reduction.MEAN), tokens=1) == 3.0


def test_the_end_token_belongs_to_the_last_step_and_is_named() -> None:
    tokens = scored(["a", ".", "b", ""], [1.0, 1.0, 1.0, 1.0])
    assert tokens.end_token == 3
    assert tokens_of_steps(tokens.char_ranges, ((0, 2), (2, 3))) == ((0, 2), (2, 4))
    assert scored(["a"], [1.0]).end_token is None


def test_an_empty_response_has_one_step_with_the_end_token() -> None:
    tokens = scored([""], [0.5])
    steps = split_at_delimiter("", "\n\n")
    assert tokens_of_steps(tokens.char_ranges, steps) == ((0, 1),)


@pytest.mark.parametrize(
    ("reduction", "value"),
    [
        (Reduction.SUM, 4.0),
        (Reduction.MEAN, 1.0),
        (Reduction.MIN, -2.0),
        (Reduction.MAX, 3.0),
        (Reduction.LAST, 2.0),
        (Reduction.PROD, -12.0),
        # 3 - 2/2 + 1/4 + 2/8 = 2.5, and 1 + 1/2 + 1/4 + 1/8 = 1.875.
        (Reduction.DISCOUNTED_SUM, 2.5),
        (Reduction.DISCOUNTED_MEAN, 2.5 / 1.875),
        (Reduction.SUM_PER_TOKEN, 4.0 / 16),
        (Reduction.SUM_PER_ROOT_TOKEN, 4.0 / 4),
    ],
)
def test_reductions_of_four_rewards_that_come_from_sixteen_tokens(reduction: Reduction, value: float) -> None:
    assert reduce_rewards([3.0, -2.0, 1.0, 2.0], How(reduction=reduction, discount=0.5), tokens=16) == pytest.approx(value)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_reducing_nothing(reduction: Reduction) -> None:
    of_nothing = {Reduction.SUM: 0.0, Reduction.DISCOUNTED_SUM: 0.0, Reduction.PROD: 1.0}
    assert reduce_rewards([], How(reduction=reduction), tokens=0) == of_nothing.get(reduction)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_reducing_one_reward_of_one_token_gives_that_reward(reduction: Reduction) -> None:
    assert reduce_rewards([-0.75], How(reduction=reduction, discount=0.9), tokens=1) == -0.75


@pytest.mark.parametrize("spans", [[], [(0, 0)]])
def test_what_is_empty_is_one_empty_step(spans: list[tuple[int, int]]) -> None:
    assert check_partition(spans, 0, "code points") == ((0, 0),)


def test_the_end_token_of_an_empty_response_is_in_its_step() -> None:
    tokens = scored([""], [0.5])
    steps = check_partition([], 0, "code points")
    found = step_rewards(tokens, steps, tokens_of_steps(tokens.char_ranges, steps))
    assert (found.rewards, found.token_ranges, found.end_token_step) == ((0.5,), ((0, 1),), 0)


def test_without_its_end_token_an_empty_response_has_one_step_without_tokens() -> None:
    tokens = scored([""], [0.5]).without_end_token()
    whole = check_partition([], len(tokens.ids), "tokens")
    assert (chars_of_steps(tokens.char_ranges, whole), tokens_of_steps(tokens.char_ranges, whole)) == (((0, 0),), ((0, 0),))
    found = step_rewards(tokens, whole, whole)
    assert (found.rewards, found.end_token_step) == ((0.0,), None)


def test_a_response_without_its_end_token_has_the_rewards_of_the_others() -> None:
    tokens = scored(["a", "b", ""], [1.0, 2.0, 4.0]).without_end_token()
    assert (tokens.rewards, tokens.end_token, len(tokens.texts)) == ((1.0, 2.0), None, 2)
    assert tokens.without_end_token() is tokens


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        ([(1, 4)], "span 0 is [1, 4); steps follow each other without gap or overlap, so it must be [0, end)"),
        ([(0, 2), (3, 4)], "span 1 is [3, 4)"),
        ([(0, 3), (2, 4)], "span 1 is [2, 4)"),
        ([(0, 0), (0, 4)], "span 0 is [0, 0)"),
        ([(0, 3)], "end at 3, the response has 4 tokens"),
        ([(0, 5)], "end at 5, the response has 4 tokens"),
        ([], "end at 0, the response has 4 tokens"),
    ],
)
def test_spans_must_cover_the_response(spans: list[tuple[int, int]], fault: str) -> None:
    with pytest.raises(SpansError, match=re.escape(fault)):
        check_partition(spans, 4, "tokens")


def test_token_spans_know_their_text() -> None:
    tokens = scored(["ab", "c", "de", ""], [1.0] * 4)
    assert chars_of_steps(tokens.char_ranges, ((0, 2), (2, 4))) == ((0, 3), (3, 5))


texts = st.lists(st.text(alphabet="ab.\n\U0001f600é", max_size=4), min_size=1, max_size=30)
delimiters = st.sampled_from([".", "\n", "\n\n", "ab", "\U0001f600"])


@given(texts, delimiters)
def test_steps_partition_the_text(parts: list[str], delimiter: str) -> None:
    text = "".join(parts)
    steps = split_at_delimiter(text, delimiter)
    assert "".join(text[start:end] for start, end in steps) == text
    if text:
        assert check_partition(steps, len(text), "code points") == steps


@given(texts, delimiters, st.data())
def test_token_rewards_step_rewards_and_the_sequence_reward_have_one_sum(parts: list[str], delimiter: str, data: st.DataObject) -> None:
    rewards = data.draw(st.lists(st.floats(-100, 100, width=32), min_size=len(parts), max_size=len(parts)))
    tokens = scored(parts, rewards)
    steps = split_at_delimiter("".join(parts), delimiter)
    ranges = tokens_of_steps(tokens.char_ranges, steps)
    result = step_rewards(tokens, steps, ranges)
    total = math.fsum(rewards)
    assert [index for start, end in ranges for index in range(start, end)] == list(range(len(parts)))
    assert sequence_reward(result.rewards, tokens=len(parts)) == pytest.approx(total, abs=1e-9)
    assert sequence_reward(rewards, tokens=len(parts)) == pytest.approx(total, abs=1e-9)
