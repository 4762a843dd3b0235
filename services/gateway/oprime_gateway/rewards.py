"""From token rewards to step and sequence rewards. Pure: no network, no clock.

Text positions are Unicode code points of the response, ranges are half-open. Every token belongs to exactly one step, so
with the reduction `sum` token rewards, step rewards and the sequence reward have one and the same total, to the last printed
digit: rewards are float32 in their shortest decimals, and are added as such.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import accumulate, pairwise

Range = tuple[int, int]


class Reduction(StrEnum):
    """From several rewards to one."""

    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    PROD = "prod"
    DISCOUNTED_SUM = "discounted_sum"
    """sum_i discount^i r_i, i from 0: the return at the first of them."""
    DISCOUNTED_MEAN = "discounted_mean"
    """The same, divided by sum_i discount^i."""
    SUM_PER_TOKEN = "sum_per_token"  # noqa: S105
    """The sum, divided by the number of response tokens that it comes from: also of steps, whose mean weighs short and long ones alike."""
    SUM_PER_ROOT_TOKEN = "sum_per_root_token"  # noqa: S105
    """The sum, divided by the square root of that number."""


DISCOUNTED = frozenset({Reduction.DISCOUNTED_SUM, Reduction.DISCOUNTED_MEAN})
"""Reductions that want a discount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """A reduction and what it needs to know."""

    reduction: Reduction = Reduction.SUM
    discount: float = 1.0


SUM = How()


class SpansError(ValueError):
    """The steps of a response are not a partition of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRewards:
    """One response as the PRM scored it; all sequences have one value per response token, the end token included."""

    ids: tuple[int, ...]
    rewards: tuple[float, ...]
    logprobs: tuple[float, ...]
    reference_logprobs: tuple[float, ...]
    texts: tuple[str, ...]
    char_ranges: tuple[Range, ...]
    has_end_token: bool = False
    """Whether the last token is an end token."""

    @property
    def end_token(self) -> int | None:
        """Index of the end token."""
        return len(self.ids) - 1 if self.has_end_token else None

    def without_end_token(self) -> "TokenRewards":
        if not self.has_end_token:
            return self
        return TokenRewards(
            ids=self.ids[:-1],
            rewards=self.rewards[:-1],
            logprobs=self.logprobs[:-1],
            reference_logprobs=self.reference_logprobs[:-1],
            texts=self.texts[:-1],
            char_ranges=self.char_ranges[:-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRewards:
    char_ranges: tuple[Range, ...]
    token_ranges: tuple[Range, ...]
    rewards: tuple[float | None, ...]
    """None for a step in which no token starts, where the reduction has no value for nothing."""
    end_token_step: int | None = None
    """The step that holds the end token."""


def ranges_of_texts(texts: Sequence[str]) -> tuple[Range, ...]:
    """Where each text lies in their concatenation."""
    return tuple(pairwise(accumulate((len(text) for text in texts), initial=0)))


def split_at_delimiter(text: str, delimiter: str) -> tuple[Range, ...]:
    """Steps of a text; a run of delimiters belongs to the step it ends."""
    if not delimiter:
        raise SpansError("steps.delimiter is empty: give the text between two steps, or steps.mode none")
    runs = re.finditer(f"(?:{re.escape(delimiter)})+", text)
    # A run at the very beginning ends nothing; one at the very end is followed by nothing.
    cuts = [run.end() for run in runs if run.start() > 0 and run.end() < len(text)]
    return tuple(pairwise((0, *cuts, len(text))))


def check_partition(spans: Sequence[Range], length: int, unit: str) -> tuple[Range, ...]:
    """Return `spans` if they cover [0, length) in order, without gap or overlap. Raises SpansError with the first fault.

    What is empty is one empty step, also where no span is given, so that an end token always has a step.
    """
    if length == 0 and all(span == (0, 0) for span in spans):
        return ((0, 0),)
    expected = 0
    for index, (start, end) in enumerate(spans):
        if start != expected or end <= start:
            rule = f"steps follow each other without gap or overlap, so it must be [{expected}, end) with end > {expected}"
            raise SpansError(f"steps.spans: span {index} is [{start}, {end}); {rule}")
        expected = end
    if expected != length:
        raise SpansError(f"steps.spans end at {expected}, the response has {length} {unit}: the spans must cover it whole")
    return tuple(spans)


def tokens_of_steps(char_ranges: Sequence[Range], steps: Sequence[Range]) -> tuple[Range, ...]:
    """Token range of each step: a token belongs to the step in which its first character lies, the end token to the last."""
    step_starts = [start for start, _ in steps]
    positions = accumulate((start for start, _ in char_ranges), max)
    owners = [max(0, bisect_right(step_starts, position) - 1) for position in positions]
    bounds = [bisect_right(owners, step - 1) for step in range(len(steps))]
    return tuple(pairwise((*bounds, len(owners))))


def chars_of_steps(char_ranges: Sequence[Range], token_ranges: Sequence[Range]) -> tuple[Range, ...]:
    """Text range of each range of tokens, of which only the whole of an empty response may be empty."""
    if not char_ranges:
        return ((0, 0),) * len(token_ranges)
    return tuple((char_ranges[start][0], max(char_ranges[start][0], char_ranges[end - 1][1])) for start, end in token_ranges)


def step_rewards(tokens: TokenRewards, char_ranges: Sequence[Range], token_ranges: Sequence[Range], how: How = SUM) -> StepRewards:
    end = tokens.end_token
    return StepRewards(
        char_ranges=tuple(char_ranges),
        token_ranges=tuple(token_ranges),
        rewards=tuple(reduce_rewards(tokens.rewards[first:after], how, tokens=after - first) for first, after in token_ranges),
        end_token_step=None if end is None else next(step for step, (_, after) in enumerate(token_ranges) if after > end),
    )


def sequence_reward(rewards: Sequence[float | None], how: How = SUM, *, tokens: int) -> float | None:
    """Reduce the rewards of steps (or of tokens) that hold `tokens` tokens together; steps without a value do not count."""
    return reduce_rewards([reward for reward in rewards if reward is not None], how, tokens=tokens)


def reduce_rewards(rewards: Sequence[float], how: How, *, tokens: int) -> float | None:
    """Reduce to one number. Sums of nothing are 0 and its product 1; a mean of it, its least, greatest and last do not exist."""
    match how.reduction:
        case Reduction.SUM:
            return decimal_sum(rewards)
        case Reduction.PROD:
            return math.prod(rewards)
        case Reduction.DISCOUNTED_SUM:
            return _discounted(rewards, how.discount)
        case _:
            return _reduce_some(rewards, how, tokens) if rewards else None


def decimal_sum(rewards: Sequence[float]) -> float:
    """The sum of the decimals that stand for the rewards: in any order, and of any parts, what is printed adds up."""
    return float(sum(map(Decimal, map(repr, rewards)), Decimal()))


def _reduce_some(rewards: Sequence[float], how: How, tokens: int) -> float:
    match how.reduction:
        case Reduction.MIN:
            return min(rewards)
        case Reduction.MAX:
            return max(rewards)
        case Reduction.LAST:
            return rewards[-1]
        case Reduction.DISCOUNTED_MEAN:
            return _discounted(rewards, how.discount) / _discounted([1.0] * len(rewards), how.discount)
        case _:
            return math.fsum(rewards) / _divisor(how.reduction, len(rewards), tokens)


def _divisor(reduction: Reduction, parts: int, tokens: int) -> float:
    if reduction is Reduction.SUM_PER_TOKEN:
        return tokens
    return math.sqrt(tokens) if reduction is Reduction.SUM_PER_ROOT_TOKEN else parts


def _discounted(rewards: Sequence[float], discount: float) -> float:
    return math.fsum(discount**place * reward for place, reward in enumerate(rewards))
