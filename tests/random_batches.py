"""Random batches for property tests: groups of random sizes, their rows in any order, prompts and padding of any length.

Strategies give plain numbers; tests build tensors and records of them, because run-time type checks may draw random numbers,
which a strategy may not.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from oprime.core.token_rows import ragged, response_matrix

Rows = list[list[float]]
OUTCOMES = (0.0, 0.25, 0.5, 0.6, 1.0)
PADDED_WIDTH = 9


@dataclass(frozen=True, kw_only=True)
class Case:
    lengths: list[int]
    group_ids: list[int]
    outcomes: list[float]
    prompt_lengths: list[int]
    numbers: list[Rows]
    """Several independent numbers per response token."""

    @property
    def is_trained(self) -> Tensor:
        spans = [(prompt, prompt + length) for prompt, length in zip(self.prompt_lengths, self.lengths, strict=True)]
        return torch.tensor([[start <= token < end for token in range(PADDED_WIDTH)] for start, end in spans])

    def matrix(self, rows: Rows) -> Tensor:
        """Float64, with NaN outside the response."""
        return response_matrix(rows, self.is_trained, dtype=torch.float64).masked_fill(~self.is_trained, float("nan"))

    @property
    def outcome_rewards(self) -> Tensor:
        return torch.tensor(self.outcomes, dtype=torch.float64)

    @property
    def ids(self) -> Tensor:
        return torch.tensor(self.group_ids)

    def rows_of(self, values: Tensor) -> Rows:
        """What is inside the response; everything outside must be 0."""
        assert not values[~self.is_trained].any()
        return [row.tolist() for row in ragged(values, self.is_trained)]

    def reordered(self, order: list[int]) -> "Case":
        def take(values: list) -> list:
            return [values[place] for place in order]

        return Case(
            lengths=take(self.lengths),
            group_ids=take(self.group_ids),
            outcomes=take(self.outcomes),
            prompt_lengths=take(self.prompt_lengths),
            numbers=[take(rows) for rows in self.numbers],
        )


@st.composite
def cases(draw: st.DrawFn, *, numbers: int = 1, low: float = -2.0, high: float = 2.0, smallest_group: int = 2) -> Case:
    sizes = draw(st.lists(st.integers(smallest_group, 4), min_size=1, max_size=3))
    names = draw(st.lists(st.integers(0, 10**9), min_size=len(sizes), max_size=len(sizes), unique=True))
    group_ids = list(draw(st.permutations([name for name, size in zip(names, sizes, strict=True) for _ in range(size)])))
    lengths = [draw(st.integers(1, 5)) for _ in group_ids]
    number = st.floats(low, high, width=32)
    return Case(
        lengths=lengths,
        group_ids=group_ids,
        outcomes=[draw(st.sampled_from(OUTCOMES)) for _ in group_ids],
        prompt_lengths=[draw(st.integers(1, 3)) for _ in group_ids],
        numbers=[[draw(st.lists(number, min_size=length, max_size=length)) for length in lengths] for _ in range(numbers)],
    )
