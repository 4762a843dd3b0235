"""POST /v1/best-of-n: the response with the highest reward, or the answer that most rewards vote for."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Header, Request, Response
from pydantic import Field, model_validator

from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime.wire.verification import outcome_from_proto, request_to_proto
from oprime_gateway.columns import short
from oprime_gateway.context import scoring_gateway
from oprime_gateway.models import Answered, ApiModel, ItemError, Message, RequestModel, RewardsUsage, ScoringOptions
from oprime_gateway.problems import PROBLEMS, ProblemError, described
from oprime_gateway.rewards import SpansError
from oprime_gateway.score import InputError, answered, chat_item, reward_of, token_and_step_rewards, user_message
from oprime_gateway.scoring import Pin, Scored, check_pin, score
from oprime_gateway.services import REWARDS_ALONE, Services, call
from oprime_gateway.strict_json import StrictRoute
from oprime_gateway.votes import Vote, Weight, count, ranked
from oprime_proto.v1 import verifier_pb2

router = APIRouter(route_class=StrictRoute, tags=["rewards"])

ANY_GOLD = "0"
"""What a response is compared with when only the answer that it gives is wanted."""


class Judge(RequestModel):
    """Who reads answers and tells equal ones."""

    kind: str = Field(default="math", min_length=1)
    """Name of a verifier, for example math or exact; GET /v1/verifiers lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options."""


class BestOfNRequest(ScoringOptions):
    """Choose among responses to one prompt."""

    prompt: str | None = None
    """Text of one user message; or `messages`."""
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    """A conversation that the responses follow."""
    responses: list[str] = Field(min_length=1)
    """What to choose from."""
    method: Literal["rank", "vote"] = "rank"
    """`rank`: the response with the highest reward. `vote`: the answer with the highest sum of weights, where the verifier tells which
    responses give the same one; of these the response with the highest reward."""
    verifier: Judge | None = None
    """Who reads and compares answers in a vote; `math` by default."""
    weight: Annotated[Weight, Field(strict=False)] | None = None
    """What a response counts in a vote: `sigmoid` of its reward, the default, its share by `softmax`, or `none` for a plain majority."""

    @model_validator(mode="after")
    def one_question_and_what_its_method_takes(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give the prompt, or the messages that the responses follow")
        idle = [name for name in ("verifier", "weight") if self.method == "rank" and getattr(self, name) is not None]
        if idle:
            raise ValueError(f"{' and '.join(idle)} given with method rank, which has no vote: leave it out, or use method vote")
        if self.steps.spans is not None and len(self.steps.spans) != len(self.responses):
            raise ValueError(f"steps.spans has {len(self.steps.spans)} entries for {len(self.responses)} responses: give one list for each")
        return self

    @property
    def conversation(self) -> list[Message]:
        return self.messages or [user_message(self.prompt or "")]


class Ranked(ApiModel):
    index: int
    """Place of the response in the request."""
    reward: float | None = None
    """Its reward."""
    answer: str | None = None
    """What the verifier read of it, in a vote; absent where it read nothing."""
    error: ItemError | None = None
    """Why it has no reward."""


class VoteFor(ApiModel):
    answer: str
    """As the response of the highest reward gives it."""
    weight: float
    """Sum of the weights of its responses."""
    responses: list[int]
    """Their places, the one of the highest reward first."""


class BestOfNResponse(Answered):
    object: Literal["best_of_n"] = "best_of_n"
    """Kind of this object."""
    best: int | None = None
    """Place of the chosen response; absent where none has a reward, or no response of a vote an answer."""
    answer: str | None = None
    """The answer that won a vote."""
    ranking: list[Ranked]
    """All responses, the highest reward first, those without one last."""
    votes: list[VoteFor] | None = None
    """Answers of a vote, the heaviest first."""
    usage: RewardsUsage
    """What was done."""


@router.post(
    "/v1/best-of-n",
    response_model=BestOfNResponse,
    responses={**PROBLEMS, **described({412: "The PRM is another revision than If-Match asks for"})},
)
async def best_of_n(body: BestOfNRequest, request: Request, if_match: Annotated[str | None, Header()] = None) -> Response:
    """The best of several responses to one prompt: by its reward, or by a vote of rewards for answers."""
    services, pin = scoring_gateway(request, len(body.responses)).services, Pin(model=body.model, if_match=if_match)
    if body.method == "vote" and not services.has_verifier:
        detail = f"method vote needs a verifier, and {REWARDS_ALONE}: use method rank, or ask the gateway of a run"
        raise ProblemError(HTTPStatus.NOT_FOUND, detail)
    await check_pin(services, pin)
    scored = await score(services, [chat_item(body.conversation, response, body) for response in body.responses], pin)
    rewards, errors = _rewards(body, scored)
    found, votes = await _vote(services, body, rewards) if body.method == "vote" else ({}, None)
    order = ranked(rewards)
    winner = votes[0] if votes else None
    best = winner.responses[0] if winner else order[0] if order and votes is None else None
    answer = BestOfNResponse(
        **answered(scored, "best-of-n"),
        best=best,
        answer=winner.answer if winner else None,
        ranking=[Ranked(index=place, reward=short(rewards[place]), answer=found.get(place)) for place in order]
        + [Ranked(index=place, error=ItemError(detail=detail)) for place, detail in sorted(errors.items())],
        votes=None
        if votes is None
        else [VoteFor(answer=vote.answer, weight=short(vote.weight) or 0.0, responses=list(vote.responses)) for vote in votes],
        usage=RewardsUsage(
            prompt_tokens=sum(one.prompt_tokens for one in scored.answers),
            response_tokens=sum(len(one.response_ids) // 4 for one in scored.answers),
            failed_inputs=len(errors),
        ),
    )
    headers = {"ETag": f'"{scored.revision}"'}
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


def _rewards(body: BestOfNRequest, scored: Scored) -> tuple[dict[int, float], dict[int, str]]:
    """Rewards by place, and why the others have none."""
    rewards: dict[int, float] = {}
    errors: dict[int, str] = {}
    for place, answer in enumerate(scored.answers):
        try:
            if answer.error:
                errors[place] = answer.error
                continue
            reward = reward_of(body, *token_and_step_rewards(body, place, answer, body.responses[place]))
        except (InputError, SpansError) as error:
            errors[place] = str(error)
            continue
        if reward is None:
            errors[place] = "its reward has no value under these reductions"
        else:
            rewards[place] = reward
    return rewards, errors


async def _vote(services: Services, body: BestOfNRequest, rewards: Mapping[int, float]) -> tuple[dict[int, str], list[Vote]]:
    """The answer that each response gives, and the votes."""
    judge, order = body.verifier or Judge(), ranked(rewards)
    read = await _judged(services, judge, [(body.responses[place], ANY_GOLD) for place in order])
    answers = {place: outcome.answer for place, outcome in zip(order, read, strict=True) if outcome.answer}
    groups = await _same_answers(services, judge, body.responses, answers)
    return answers, count(groups, {place: rewards[place] for place in answers}, body.weight or Weight.SIGMOID)


async def _same_answers(
    services: Services, judge: Judge, responses: Sequence[str], answers: Mapping[int, str]
) -> list[tuple[str, list[int]]]:
    """Responses by the answer that they give, in the order of `answers`: equal texts, and what the verifier calls right for one of them."""
    by_text: dict[str, list[int]] = {}
    for place, answer in answers.items():
        by_text.setdefault(answer, []).append(place)
    groups: list[tuple[str, list[int]]] = []
    while by_text:
        first, *others = by_text
        places = by_text.pop(first)
        judged = await _judged(services, judge, [(responses[by_text[other][0]], first) for other in others])
        for other, outcome in zip(others, judged, strict=True):
            if outcome.verdict is Verdict.CORRECT:
                places += by_text.pop(other)
        groups.append((first, places))
    return groups


async def _judged(services: Services, judge: Judge, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
    """Outcomes of responses compared with one gold each. Raises ProblemError for options that do not exist."""
    if not pairs:
        return []
    try:
        message = verifier_pb2.VerifyBatchRequest(
            requests=[
                request_to_proto(VerificationRequest(kind=judge.kind, response=response, golds=(gold,), options=judge.options))
                for response, gold in pairs
            ]
        )
    except ValueError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
    judged = await call("verifier", services.verifier.VerifyBatch, message, services.timeout_s)
    outcomes = [outcome_from_proto(answer) for answer in judged.responses]
    failed = next((outcome for outcome in outcomes if outcome.verdict is Verdict.INFRA_ERROR), None)
    if failed is not None:
        raise ProblemError(HTTPStatus.BAD_GATEWAY, f"verifier: an answer could not be judged ({failed.reason}): ask again")
    return outcomes
