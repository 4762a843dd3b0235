"""A prompt and its responses, laid out so that the prompt stands there once however many responses it has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oprime.core.types import TokenIds

FamilyLengths = tuple[int, tuple[int, ...]]
"""Tokens that a family's responses share, and the tokens of each response beside them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptFamily:
    """A prompt and the responses to it that are scored together. Neither is empty."""

    prompt_ids: TokenIds
    responses: tuple[TokenIds, ...]

    @property
    def response_tokens(self) -> int:
        return sum(map(len, self.responses))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyLayout:
    """One row of tokens: each family's prompt, then its responses, which see the prompt and themselves.

    A response's last token predicts nothing that is asked for, so it is left out.
    """

    token_ids: TokenIds
    position_ids: TokenIds
    lengths: tuple[FamilyLengths, ...]
    before: TokenIds
    """Place of the token before each response token, in the order of families, their responses and their tokens."""


def lay_out(families: Sequence[PromptFamily]) -> FamilyLayout:
    """The row of `families`, those with a single response first, by length. Raises ValueError without any, or for an empty part."""
    if not families:
        raise ValueError("no families are to be laid out: give at least one prompt with a response")
    builder = _Builder()
    places: dict[int, list[TokenIds]] = {}
    # Neighbours of equal length are computed together.
    order = sorted(range(len(families)), key=lambda index: (len(families[index].responses) > 1, _first_row(families[index])))
    for index in order:
        places[index] = builder.add(families[index])
    return FamilyLayout(
        token_ids=np.concatenate(builder.tokens),
        position_ids=np.concatenate(builder.positions),
        lengths=tuple(builder.lengths),
        before=np.concatenate([place for index in range(len(families)) for place in places[index]]),
    )


def _first_row(family: PromptFamily) -> int:
    if len(family.prompt_ids) == 0 or not family.responses or min(map(len, family.responses)) == 0:
        raise ValueError("a family has an empty prompt, no response, or an empty response: each needs at least one token")
    return len(family.prompt_ids) + len(family.responses[0])


class _Builder:
    def __init__(self) -> None:
        self.tokens: list[TokenIds] = []
        self.positions: list[TokenIds] = []
        self.lengths: list[FamilyLengths] = []
        self._end = 0

    def add(self, family: PromptFamily) -> list[TokenIds]:
        """Append a family; returns the places before each response's tokens."""
        prompt = family.prompt_ids
        if len(family.responses) == 1:
            whole = np.concatenate([prompt, family.responses[0][:-1]])
            start = self._append(whole, first=0)
            self.lengths.append((len(whole), ()))
            return [_range(start + len(prompt) - 1, start + len(whole))]
        last = self._append(prompt, first=0) + len(prompt) - 1
        by_length = sorted(range(len(family.responses)), key=lambda index: len(family.responses[index]))
        places: dict[int, TokenIds] = {}
        for index in by_length:
            response = family.responses[index][:-1]
            start = self._append(response, first=len(prompt))
            places[index] = np.concatenate([_range(last, last + 1), _range(start, start + len(response))])
        self.lengths.append((len(prompt), tuple(len(family.responses[index]) - 1 for index in by_length)))
        return [places[index] for index in range(len(family.responses))]

    def _append(self, ids: TokenIds, *, first: int) -> int:
        """Add tokens whose positions begin at `first`; returns where they are."""
        start = self._end
        self.tokens.append(ids)
        self.positions.append(_range(first, first + len(ids)))
        self._end += len(ids)
        return start


def _range(start: int, end: int) -> TokenIds:
    return np.arange(start, end, dtype=np.int32)
