"""Whose rows the next micro-batch scores. Pure: no clock, no model.

Requests take turns. Each micro-batch goes round those that wait, the longest unserved first: everybody gets an even share of its tokens,
at least a row while there is room, and what is left goes to whoever has more. So a long request holds the others up by one row a turn.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True, slots=True)
class Row:
    """One response to score."""

    place: int
    """Among the request's inputs."""
    prompt: int
    """Number of its prompt; equal for rows that share one."""
    prompt_tokens: int
    response_tokens: int
    shares: bool
    """Whether its prompt is computed once for all rows of one micro-batch that have it."""


class Waiting:
    """A request's rows that are yet to be scored, and whose model scores them."""

    def __init__(self, model: object, rows: Sequence[Row]) -> None:
        self.model = model
        self._rows = deque(sorted(rows, key=lambda row: (row.prompt, row.place)))
        self.tokens = sum(row.prompt_tokens + row.response_tokens for row in rows)
        """Of the rows that are left, each with its prompt."""

    @property
    def rows_left(self) -> int:
        return len(self._rows)

    def take(self, *, share: int, room: int, seen: set[int], even_too_long: bool) -> tuple[list[Row], int]:
        """Remove rows worth up to `share` tokens, or one worth up to `room` (any one with `even_too_long`), and say what they cost.

        `seen` are the prompts that the micro-batch has already, and gets those that these rows add.
        """
        taken: list[Row] = []
        spent = 0
        while self._rows:
            row = self._rows[0]
            cost = row.response_tokens + (0 if row.shares and row.prompt in seen else row.prompt_tokens)
            most = share if taken else max(room, share)
            if spent + cost > most and (taken or not even_too_long):
                break
            taken.append(self._rows.popleft())
            self.tokens -= row.prompt_tokens + row.response_tokens
            seen.add(row.prompt)
            spent += cost
        return taken, spent


WaitingT = TypeVar("WaitingT", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Share(Generic[WaitingT]):
    """What one request has in a micro-batch."""

    request: WaitingT
    rows: list[Row]


def cut(waiting: "deque[WaitingT]", micro_batch_tokens: int) -> list[Share[WaitingT]]:
    """Take the next micro-batch off `waiting`: rows of one model, of at most so many tokens, or a single longer row.

    Requests without rows leave `waiting`; those that were served and have more stand behind the others.
    """
    turn = [request for request in waiting if request.model is waiting[0].model]
    rows: dict[int, list[Row]] = {id(request): [] for request in turn}
    seen: dict[int, set[int]] = {id(request): set() for request in turn}
    room = micro_batch_tokens
    for evenly in (True, False):
        for number, request in enumerate(turn):
            share = room // (len(turn) - number) if evenly else room
            untouched = room == micro_batch_tokens
            taken, spent = request.take(
                share=share, room=room if evenly else 0, seen=seen[id(request)], even_too_long=untouched and evenly and number == 0
            )
            rows[id(request)] += taken
            room = max(0, room - spent)
    served = [request for request in turn if rows[id(request)]]
    for request in served:
        waiting.remove(request)
        if request.rows_left:
            waiting.append(request)
    return [Share(request, rows[id(request)]) for request in served]
