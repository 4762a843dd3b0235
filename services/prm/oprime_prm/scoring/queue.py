"""Scores what many requests ask for in common micro-batches, in turns that are fair to short ones.

takes      requests, in `score`
waits for  rows; the time that training leaves (`TimeShare`)
runs       one forward pass at a time, in a thread of its own
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from oprime.core.prompt_families import PromptFamily
from oprime.lm.computing_thread import computing_thread
from oprime.runtime.errors import NotReadyError, TooBusyError
from oprime.runtime.heartbeat import BusyMeter
from oprime_prm.scoring.inputs import ScoreInput
from oprime_prm.scoring.meter import ScoreMeter
from oprime_prm.scoring.pair import TokenScores
from oprime_prm.scoring.share import TimeShare
from oprime_prm.scoring.turns import Row, Share, Waiting, cut

log = structlog.get_logger()

MOST_RESTARTS = 3


class Scores(Protocol):
    """A PRM with its reference."""

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        """Whether responses of up to so many tokens to one prompt cost that prompt once."""
        ...

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        """Scores of each response of each family, and the one version that they come from. Blocks."""
        ...


class _Request(Waiting):
    def __init__(self, model: Scores, inputs: Sequence[ScoreInput]) -> None:
        self.scores = model
        self.inputs = inputs
        self.found: dict[int, TokenScores] = {}
        self.version: int | None = None
        self.restarts = 0
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        super().__init__(model, _rows(model, inputs))

    def restart(self) -> None:
        """Forget what an older version scored."""
        self.found.clear()
        self.version = None
        self.restarts += 1
        super().__init__(self.model, _rows(self.scores, self.inputs))


class ScoreQueue:
    """`run` does the work; `score` is answered while it runs."""

    def __init__(
        self, *, micro_batch_tokens: int, waiting_tokens: int, share: TimeShare, meter: BusyMeter, scores: ScoreMeter | None = None
    ) -> None:
        """Micro-batches have at most so many tokens, or one row; requests that would let more than `waiting_tokens` wait are refused."""
        self._micro_batch_tokens = micro_batch_tokens
        self._most_waiting = waiting_tokens
        self._share = share
        self._meter = meter
        self._scores = scores or ScoreMeter()
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._thread = computing_thread("score")
        self.scored_tokens = 0

    @property
    def waiting_tokens(self) -> int:
        return sum(request.tokens for request in self._waiting)

    async def score(self, model: Scores, inputs: Sequence[ScoreInput]) -> tuple[list[TokenScores], int]:
        """Scores of all inputs, from one version, and that version.

        Raises TooBusyError when too much waits already, and NotReadyError when weights changed too often meanwhile.
        """
        request = _Request(model, inputs)
        waiting = self.waiting_tokens
        if waiting and waiting + request.tokens > self._most_waiting:
            raise TooBusyError(
                f"{waiting} tokens wait to be scored, and these {request.tokens} would be more than scoring.waiting_tokens "
                f"({self._most_waiting}): try again in a moment"
            )
        self._waiting.append(request)
        self._scores.waiting(requests=len(self._waiting), tokens=waiting + request.tokens)
        self._arrived.set()
        try:
            version = await request.done
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        self.scored_tokens += sum(len(one.response_ids) for one in inputs)
        return [request.found[place] for place in range(len(inputs))], version

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._share.turn()
            if not self._waiting:
                self._arrived.clear()
                continue
            await self._pass(cut(self._waiting, self._micro_batch_tokens))
            self._scores.waiting(requests=len(self._waiting), tokens=self.waiting_tokens)

    async def _pass(self, shares: list[Share[_Request]]) -> None:
        families = [_families(share) for share in shares]
        model, began = shares[0].request.scores, time.monotonic()
        try:
            with self._meter:
                found, version = await asyncio.get_running_loop().run_in_executor(
                    self._thread, model.score, [family for own in families for family, _ in own], self._micro_batch_tokens
                )
        except Exception as error:  # noqa: BLE001 - whoever asked hears of it; the others are served on
            self._fail(shares, error)
            return
        finally:
            seconds = time.monotonic() - began
            self._share.note(seconds)
            self._scores.passed(requests=len(shares), tokens=sum(_tokens(family) for own in families for family, _ in own), seconds=seconds)
        scores = iter(found)
        for share, own in zip(shares, families, strict=True):
            self._note(
                share.request, {place: values for _, places in own for place, values in zip(places, next(scores), strict=True)}, version
            )

    def _note(self, request: _Request, found: dict[int, TokenScores], version: int) -> None:
        if request.done.done():
            return
        if request.version not in (None, version):
            self._start_again(request)
            return
        request.version = version
        request.found |= found
        if not request.rows_left:
            request.done.set_result(version)

    def _start_again(self, request: _Request) -> None:
        """The weights changed between two of its micro-batches: all of its scores are to be of one version."""
        if request.restarts == MOST_RESTARTS:
            request.done.set_exception(
                NotReadyError(
                    f"the PRM's weights changed {MOST_RESTARTS + 1} times while {len(request.inputs)} inputs were scored: ask for fewer at "
                    "once, or let the run have replicas for scoring (scoring.replicas)"
                )
            )
            return
        request.restart()
        if request not in self._waiting:
            self._waiting.appendleft(request)
            self._arrived.set()

    def _fail(self, shares: list[Share[_Request]], error: Exception) -> None:
        log.error("scoring_failed", error=str(error))
        for share in shares:
            if share.request in self._waiting:
                self._waiting.remove(share.request)
            if not share.request.done.done():
                share.request.done.set_exception(error)


def _rows(model: Scores, inputs: Sequence[ScoreInput]) -> list[Row]:
    """One row per input; inputs whose prompt is the same share it, where the model can."""
    prompts: dict[bytes, list[int]] = {}
    for place, one in enumerate(inputs):
        prompts.setdefault(one.prompt_ids.tobytes(), []).append(place)
    rows: list[Row] = []
    for number, places in enumerate(prompts.values()):
        prompt_tokens = len(inputs[places[0]].prompt_ids)
        shares = len(places) > 1 and model.shares(prompt_tokens, max(len(inputs[place].response_ids) for place in places))
        rows += [Row(place, number, prompt_tokens, len(inputs[place].response_ids), shares) for place in places]
    return rows


def _tokens(family: PromptFamily) -> int:
    return len(family.prompt_ids) + family.response_tokens


def _families(share: Share[_Request]) -> list[tuple[PromptFamily, list[int]]]:
    """What a request has in a micro-batch, by prompt, and the places of each family's responses among its inputs."""
    inputs = share.request.inputs
    groups: dict[int, list[int]] = {}
    for row in share.rows:
        # Rows that cannot share a prompt are families of their own.
        groups.setdefault(row.prompt if row.shares else -1 - row.place, []).append(row.place)
    return [
        (PromptFamily(prompt_ids=inputs[places[0]].prompt_ids, responses=tuple(inputs[place].response_ids for place in places)), places)
        for places in groups.values()
    ]
