"""Requests that wait together: one version each, errors apart, and time left for training."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
import torch

from fakes import ManualClock
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.core.prompt_families import PromptFamily
from oprime.runtime.errors import NotReadyError, TooBusyError
from oprime.runtime.heartbeat import BusyMeter
from oprime_prm.scoring.inputs import ScoreInput
from oprime_prm.scoring.meter import ScoreMeter
from oprime_prm.scoring.pair import TokenScores
from oprime_prm.scoring.queue import MOST_RESTARTS, ScoreQueue
from oprime_prm.scoring.share import TimeShare


class Echo:
    """Each token's reward is its id. Changes its version after as many passes as `versions` says of each."""

    def __init__(self, *versions: int) -> None:
        self._versions = [number for number, passes in enumerate(versions) for _ in range(passes)]
        self.passes: list[list[list[int]]] = []

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        return True

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        responses = [[response.tolist() for response in family.responses] for family in families]
        self.passes += [[ids for family in responses for ids in family]]
        version = self._versions[min(len(self.passes), len(self._versions)) - 1] if self._versions else 0
        if any(13 in ids for family in responses for ids in family):
            raise RuntimeError("out of memory")
        return [[scores(ids) for ids in family] for family in responses], version


def scores(ids: list[int]) -> TokenScores:
    values = torch.tensor(ids, dtype=torch.float32)
    return TokenScores(process_rewards=values, prm_logprobs=values, reference_logprobs=values)


def inputs(*responses: list[int], prompt: int = 1) -> list[ScoreInput]:
    ids = np.asarray([prompt], dtype=np.int32)
    return [ScoreInput(prompt_ids=ids, response_ids=np.asarray(one, dtype=np.int32), token_texts=()) for one in responses]


@asynccontextmanager
async def queue(
    tokens: int = 8, waiting: int = 1000, share: TimeShare | None = None, scores: ScoreMeter | None = None
) -> AsyncIterator[ScoreQueue]:
    made = ScoreQueue(
        micro_batch_tokens=tokens,
        waiting_tokens=waiting,
        share=share or TimeShare(1.0, ManualClock()),
        meter=BusyMeter(),
        scores=scores,
    )
    working = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        working.cancel()


async def rewards(made: ScoreQueue, model: Echo, *responses: list[int]) -> tuple[list[list[float]], int]:
    found, version = await made.score(model, inputs(*responses))
    return [one.process_rewards.tolist() for one in found], version


async def test_requests_share_a_micro_batch_and_each_gets_its_own_scores_in_order() -> None:
    model = Echo()
    async with queue(tokens=8) as made:
        answers = await asyncio.gather(rewards(made, model, [5], [6, 7]), rewards(made, model, [8]))
        assert made.scored_tokens == 4
    assert answers == [([[5.0], [6.0, 7.0]], 0), ([[8.0]], 0)]
    assert model.passes == [[[5], [6, 7], [8]]]


async def test_passes_and_what_waits_are_shown() -> None:
    metrics = PrometheusMetrics()
    async with queue(tokens=8, scores=ScoreMeter(metrics)) as made:
        await asyncio.gather(rewards(made, Echo(), [5], [6, 7]), rewards(made, Echo(), [8]))
        await asyncio.sleep(0)
    shown = metrics.render()[0].decode()
    # Models of their own, so a pass each: a prompt of one token with 3 tokens of responses, and one with 1.
    assert "oprime_score_pass_requests_total 2.0" in shown
    assert "oprime_score_pass_tokens_total 6.0" in shown
    assert "oprime_score_waiting_requests 0.0" in shown
    assert "oprime_score_waiting_tokens 0.0" in shown


async def test_scores_of_one_request_are_of_one_version() -> None:
    # Three rows of three tokens, one a pass; the version changes after the second pass.
    model = Echo(2, 100)
    async with queue(tokens=3) as made:
        answer = await rewards(made, model, [5, 5], [6, 6], [7, 7])
    assert answer == ([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]], 1)
    assert len(model.passes) == 3 + 3


async def test_a_request_that_outlives_too_many_versions_is_given_up() -> None:
    model = Echo(*[1] * 50)
    async with queue(tokens=3) as made:
        with pytest.raises(NotReadyError, match=rf"changed {MOST_RESTARTS + 1} times while 2 inputs were scored.*scoring.replicas"):
            await rewards(made, model, [5, 5], [6, 6])
        assert made.waiting_tokens == 0
    assert len(model.passes) == 2 * (MOST_RESTARTS + 1)


async def test_a_pass_that_fails_fails_its_requests_alone() -> None:
    model = Echo()
    async with queue(tokens=3) as made:
        bad, good = await asyncio.gather(rewards(made, model, [13, 1], [5, 5]), rewards(made, model, [7, 7]), return_exceptions=True)
        assert isinstance(bad, RuntimeError)
        assert good == ([[7.0, 7.0]], 0)
        assert made.waiting_tokens == 0


async def test_whoever_has_gone_is_not_scored() -> None:
    model, clock = Echo(), ManualClock()
    share = TimeShare(0.5, clock)
    share.note(10.0)
    async with queue(share=share) as made:
        gone, stays = asyncio.create_task(rewards(made, model, [5])), asyncio.create_task(rewards(made, model, [6]))
        await clock.run_for(1.0)
        gone.cancel()
        await clock.run_for(10.0)
        assert await stays == ([[6.0]], 0)
    assert model.passes == [[[6]]]


async def test_more_than_may_wait_is_refused_but_a_single_request_never() -> None:
    model, clock = Echo(), ManualClock()
    share = TimeShare(0.5, clock)
    share.note(10.0)
    async with queue(waiting=5, share=share) as made:
        large = asyncio.create_task(rewards(made, model, [1, 2, 3, 4, 5, 6]))
        await clock.run_for(0)
        with pytest.raises(TooBusyError, match=r"7 tokens wait to be scored, and these 2 .* scoring.waiting_tokens \(5\)"):
            await rewards(made, model, [5])
        await clock.run_for(11.0)
        assert (await large)[1] == 0


async def test_scoring_pauses_until_its_work_was_its_share_of_the_time() -> None:
    clock, training = ManualClock(), True
    share = TimeShare(0.25, clock, applies=lambda: training)
    share.note(2.0)  # so 6 seconds are training's
    turn = asyncio.create_task(share.turn())
    await clock.run_for(5.9)
    assert not turn.done()
    await clock.run_for(0.2)
    assert turn.done()
    share.note(2.0)
    training = False
    await asyncio.wait_for(share.turn(), 1)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_is_a_part_of_the_time(share: float) -> None:
    with pytest.raises(ValueError, match="more than 0 and at most all"):
        TimeShare(share, ManualClock())
