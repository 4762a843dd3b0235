"""A prompt and its responses, laid out so that the prompt stands there once however many responses it has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oprime.core.types import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptFamily:
    """A prompt and the responses to it that are computed together. Neither is empty."""

    prompt_ids: TokenIds
    responses: tuple[TokenIds, ...]

    @property
    def response_tokens(self) -> int:
        return sum(map(len, self.responses))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Pieces of equal length that stand side by side in a row, so that attention computes them together."""

    pieces: int
    tokens: int
    """Of each piece."""
    after: int | None = None
    """Number of the block whose pieces these go on from, and see; None for pieces that begin."""
    prompts: tuple[int, ...] = ()
    """Which piece of that block each of these goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyLayout:
    """One row of tokens: whole rows and prompts, then responses, which see their prompt and themselves.

    A response's last token predicts nothing that is asked for, so it is left out.
    """

    token_ids: TokenIds
    position_ids: TokenIds
    blocks: tuple[Block, ...]
    before: TokenIds
    """Place of the token before each response token, in the order of families, their responses and their tokens."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where a piece of a family stands: its block, and its place among the block's pieces."""

    block: int
    place: int


@dataclass(frozen=True, slots=True)
class _New:
    """A piece that is to be placed."""

    ids: TokenIds
    position: int = 0
    """Of its first token."""
    after: _Piece | None = None


def lay_out(families: Sequence[PromptFamily]) -> FamilyLayout:
    """The row of `families`; pieces of equal length stand together. Raises ValueError without any, or for an empty part."""
    if not families:
        raise ValueError("no families are to be laid out: give at least one prompt with a response")
    if any(len(family.prompt_ids) == 0 or not family.responses or min(map(len, family.responses)) == 0 for family in families):
        raise ValueError("a family has an empty prompt, no response, or an empty response: each needs at least one token")
    row = _Row()
    first = row.add([_New(_beginning(family)) for family in families])
    rest = row.add(
        [
            _New(response[:-1], len(family.prompt_ids), beginning)
            for family, beginning in zip(families, first, strict=True)
            if len(family.responses) > 1
            for response in family.responses
        ]
    )
    return FamilyLayout(
        token_ids=np.concatenate(row.tokens),
        position_ids=np.concatenate(row.positions),
        blocks=tuple(row.blocks),
        before=np.concatenate(_before(families, [row.start(piece) for piece in first], [row.start(piece) for piece in rest])),
    )


def _beginning(family: PromptFamily) -> TokenIds:
    """What stands first: the whole row of a single response, else the prompt."""
    return np.concatenate([family.prompt_ids, family.responses[0][:-1]]) if len(family.responses) == 1 else family.prompt_ids


def _before(families: Sequence[PromptFamily], first: Sequence[int], rest: Sequence[int]) -> list[TokenIds]:
    """Places before each response's tokens, given where each family begins and where each response that goes on from a prompt stands."""
    found: list[TokenIds] = []
    starts = iter(rest)
    for family, start in zip(families, first, strict=True):
        last = start + len(family.prompt_ids) - 1
        if len(family.responses) == 1:
            found.append(_range(last, len(family.responses[0])))
            continue
        for response in family.responses:
            found.append(np.concatenate([_range(last, 1), _range(next(starts), len(response) - 1)]))
    return found


class _Row:
    """Pieces in the order in which they stand."""

    def __init__(self) -> None:
        self.tokens: list[TokenIds] = []
        self.positions: list[TokenIds] = []
        self.blocks: list[Block] = []
        self._starts: list[int] = []
        self._end = 0

    def add(self, pieces: Sequence[_New]) -> list[_Piece]:
        """Append pieces, a block for those of equal length that go on from the same block; returns where each stands."""
        members: dict[tuple[int, int], list[int]] = {}
        for index, piece in enumerate(pieces):
            members.setdefault((piece.after.block if piece.after else 0, len(piece.ids)), []).append(index)
        found: dict[int, _Piece] = {}
        for key in sorted(members):
            together = [pieces[index] for index in members[key]]
            found |= {index: _Piece(len(self.blocks), place) for place, index in enumerate(members[key])}
            self._append(together)
        return [found[index] for index in range(len(pieces))]

    def start(self, piece: _Piece) -> int:
        """Place of its first token."""
        return self._starts[piece.block] + piece.place * self.blocks[piece.block].tokens

    def _append(self, pieces: Sequence[_New]) -> None:
        tokens = len(pieces[0].ids)
        after = [piece.after for piece in pieces if piece.after]
        self.blocks.append(
            Block(pieces=len(pieces), tokens=tokens, after=after[0].block if after else None, prompts=tuple(one.place for one in after))
        )
        self.tokens += [piece.ids for piece in pieces]
        self.positions += [_range(piece.position, tokens) for piece in pieces]
        self._starts.append(self._end)
        self._end += tokens * len(pieces)


def _range(start: int, count: int) -> TokenIds:
    return np.arange(start, start + count, dtype=np.int32)
