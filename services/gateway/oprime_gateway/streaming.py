"""POST /v1/rewards as newline-delimited JSON: a line as soon as there is something to say."""

from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import structlog

from oprime_gateway.models import Problem, RewardItem, RewardsBegin, RewardsEnd, RewardsRequest, StreamedItem
from oprime_gateway.problems import ProblemError
from oprime_gateway.score import answered, reward_item, usage
from oprime_gateway.scoring import Asked, Pin, Scored, score
from oprime_gateway.services import Services
from oprime_proto.v1 import prm_pb2 as pb

log = structlog.get_logger()

NDJSON = "application/x-ndjson"
AT_ONCE = 16
"""Inputs that are scored together, so that the first lines come soon."""


def wants_stream(accept: str | None) -> bool:
    """Whether the client prefers lines: it names them, and not with weight 0."""
    for entry in (accept or "").split(","):
        media_type, _, parameters = entry.partition(";")
        if media_type.strip().lower() == NDJSON:
            return parameters.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def begin(services: Services, request: RewardsRequest, asked: Sequence[Asked], pin: Pin) -> tuple[Scored, AsyncIterator[bytes]]:
    """Score the first inputs, whose failure still has a status of its own, and return how the lines go on."""
    first = await score(services, asked[:AT_ONCE], pin)
    return first, _lines(services, request, asked, first)


async def _lines(services: Services, request: RewardsRequest, asked: Sequence[Asked], first: Scored) -> AsyncIterator[bytes]:
    yield _line(RewardsBegin(**answered(first)))
    answers: list[pb.ScoredResponse] = []
    items: list[RewardItem] = []
    scored = first
    while True:
        for answer in scored.answers:
            item = reward_item(request, len(answers), answer)
            answers.append(answer)
            items.append(item)
            yield _line(StreamedItem(**dict(item)))
        if len(answers) == len(asked):
            break
        try:
            scored = await _of_one_version(services, asked[len(answers) : len(answers) + AT_ONCE], first)
        except ProblemError as error:
            yield _line(Problem(title=error.status.phrase, status=error.status, detail=error.detail))
            return
        except Exception:
            # The status has been sent: a line is all that can still say so.
            log.exception("stream_failed")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            yield _line(Problem(title=status.phrase, status=status, detail="the gateway failed; its log says why"))
            return
    yield _line(RewardsEnd(usage=usage(answers, items)))


async def _of_one_version(services: Services, asked: Sequence[Asked], first: Scored) -> Scored:
    """An answer never mixes versions. Raises ProblemError (409) where the PRM has gone on meanwhile."""
    try:
        return await score(services, asked, Pin(model=first.revision))
    except ProblemError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        detail = f"the PRM went on from {first.revision} while this answer was under way ({error.detail}): send the inputs after it again"
        raise ProblemError(HTTPStatus.CONFLICT, detail) from error


def _line(model: RewardsBegin | StreamedItem | RewardsEnd | Problem) -> bytes:
    return model.model_dump_json(exclude_none=True).encode() + b"\n"
