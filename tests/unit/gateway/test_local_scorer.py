"""A scorer in the gateway's own process: its answers, and its errors as those of a service."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import pytest

from oprime.runtime.errors import TooBusyError, UnusableInputError, WeightVersionMissingError
from oprime_gateway.local_scorer import LocalScorer
from oprime_gateway.problems import ServiceFailedError
from oprime_gateway.services import Services
from oprime_proto.v1 import prm_pb2 as pb


class Scripted:
    """Answers as a test says."""

    def __init__(self, score: Callable[[], Awaitable[pb.ScoreResponse]]) -> None:
        self._score = score

    async def Score(self, request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:  # noqa: N802
        return await self._score()

    async def Status(self, request: pb.PrmServiceStatusRequest, context: object) -> pb.PrmServiceStatusResponse:  # noqa: N802
        return pb.PrmServiceStatusResponse(prm_version=3)


async def test_a_scorer_of_this_process_stands_for_the_prm_and_is_ready() -> None:
    async def score() -> pb.ScoreResponse:
        return pb.ScoreResponse(prm_version=3)

    services = Services(channels={}, timeout_s=1.0, scorers=LocalScorer(Scripted(score)))
    assert (await services.prm.Score(pb.ScoreRequest(), timeout=1.0)).prm_version == 3
    assert (await services.prm.Status(pb.PrmServiceStatusRequest(), timeout=1.0)).prm_version == 3
    assert await services.ready() == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnusableInputError("too many"), HTTPStatus.BAD_REQUEST),
        (TooBusyError("later"), HTTPStatus.TOO_MANY_REQUESTS),
        (WeightVersionMissingError("prm@9"), HTTPStatus.NOT_FOUND),
        (RuntimeError("out of memory"), HTTPStatus.BAD_GATEWAY),
    ],
)
async def test_its_errors_have_the_status_of_a_service_s(error: Exception, status: HTTPStatus) -> None:
    async def score() -> pb.ScoreResponse:
        raise error

    with pytest.raises(ServiceFailedError, match=str(error)) as failed:
        await LocalScorer(Scripted(score)).Score(pb.ScoreRequest(), timeout=1.0)
    assert failed.value.status == status


async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    async def score() -> pb.ScoreResponse:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ServiceFailedError, match=r"no answer within 0\.01 s") as failed:
        await LocalScorer(Scripted(score)).Score(pb.ScoreRequest(), timeout=0.01)
    assert failed.value.status == HTTPStatus.GATEWAY_TIMEOUT
