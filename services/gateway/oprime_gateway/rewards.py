"""From token rewards to step and sequence rewards. Pure: no network, no clock.

Text positions are Unicode code points of the response, ranges are half-open. Every token belongs to exactly one step, so
with the reduction `sum` token rewards, step rewards and the sequence reward have one and the same total.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise

Range = tuple[int, int]


class Reduction(StrEnum):
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    LAST = "last"
    PROD = "prod"


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

    @property
    def end_token(self) -> int | None:
        """Index of the end token, which has no text of its own; None where the last token has text."""
        last = len(self.ids) - 1
        return last if last >= 0 and self.char_ranges[last][0] == self.char_ranges[last][1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRewards:
    char_ranges: tuple[Range, ...]
    token_ranges: tuple[Range, ...]
    rewards: tuple[float | None, ...]
    """None for a step in which no token starts, where the reduction has no value for nothing."""


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
    """Return `spans` if they cover [0, length) in order, without gap or overlap. Raises SpansError with the first fault."""
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
    """Text range of each (non-empty) range of tokens."""
    return tuple((char_ranges[start][0], max(char_ranges[start][0], char_ranges[end - 1][1])) for start, end in token_ranges)


def step_rewards(tokens: TokenRewards, char_ranges: Sequence[Range], token_ranges: Sequence[Range], reduction: Reduction) -> StepRewards:
    return StepRewards(
        char_ranges=tuple(char_ranges),
        token_ranges=tuple(token_ranges),
        rewards=tuple(reduce_rewards(tokens.rewards[start:end], reduction) for start, end in token_ranges),
    )


def sequence_reward(rewards: Sequence[float | None], reduction: Reduction) -> float | None:
    """Reduce the rewards of steps (or of tokens); steps without a value do not count."""
    return reduce_rewards([reward for reward in rewards if reward is not None], reduction)


def reduce_rewards(rewards: Sequence[float], reduction: Reduction) -> float | None:
    """Reduce to one number. The sum of nothing is 0 and its product 1; its mean, minimum and last do not exist."""
    if reduction is Reduction.SUM:
        return math.fsum(rewards)
    if reduction is Reduction.PROD:
        return math.prod(rewards)
    if not rewards:
        return None
    if reduction is Reduction.MEAN:
        return math.fsum(rewards) / len(rewards)
    return min(rewards) if reduction is Reduction.MIN else rewards[-1]
