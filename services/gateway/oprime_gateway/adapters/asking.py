"""What the adapters have in common: they ask for raw rewards, and a reward that is missing fails the request.

Trainers want numbers and have no place for an error beside one, and a made-up number would mislead them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from oprime.wire.codec import ids_to_bytes
from oprime_gateway.columns import floats, short
from oprime_gateway.context import scoring_gateway
from oprime_gateway.models import Message
from oprime_gateway.problems import ProblemError
from oprime_gateway.score import InputError, token_rewards
from oprime_gateway.scoring import MODEL, Pin, check_pin, revision, score
from oprime_proto.v1 import prm_pb2 as pb


class OthersModel(BaseModel):
    """A request or answer whose form others have chosen; fields that mean nothing here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, protected_namespaces=())


class Turn(Message):
    """A message, of which chat clients say more than its role and text."""

    model_config = ConfigDict(extra="ignore")


class Usage(OthersModel):
    prompt_tokens: int
    """All tokens that were read."""
    total_tokens: int
    """The same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The rewards of one input."""

    rewards: list[float]
    """One per response token."""
    total: float
    """Their sum."""
    prompt_tokens: int
    trailing_tokens: int
    """Tokens behind the end token, which have no reward."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + len(self.rewards) + self.trailing_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    items: list[Answer]
    revision: str

    @property
    def usage(self) -> Usage:
        tokens = sum(item.tokens for item in self.items)
        return Usage(prompt_tokens=tokens, total_tokens=tokens)


async def ask(request: Request, items: Sequence[pb.ScoreItem], model: str | None = None) -> Answers:
    """Rewards of all items. A model that is called prm@VERSION is a pin, other names mean the PRM as it is.

    Raises ProblemError: 422 with the first item that cannot be scored, and what `score` raises.
    """
    services = scoring_gateway(request, len(items)).services
    pin = Pin(model=model if model is not None and model.startswith(f"{MODEL}@") else MODEL)
    await check_pin(services, pin)
    scored = await score(services, items, pin)
    return Answers(items=[_answer(index, one) for index, one in enumerate(scored.answers)], revision=revision(scored.prm_version))


def text_item(prompt: str, response: str, **limits: Any) -> pb.ScoreItem:
    """Text as it stands, templates and special tokens included."""
    return pb.ScoreItem(text=pb.TextScoreInput(prompt=prompt, response=response), **limits)


def token_item(ids: Sequence[int], **limits: Any) -> pb.ScoreItem:
    """Tokens of which nobody says where the response begins: all but the first get a reward."""
    tokens = pb.TokenScoreInput(prompt_ids=ids_to_bytes(ids[:1]), response_ids=ids_to_bytes(ids[1:]))
    return pb.ScoreItem(tokens=tokens, **limits)


def chat_item(messages: Sequence[Message], response: str, **limits: Any) -> pb.ScoreItem:
    """A response that follows a conversation."""
    chat = pb.ChatScoreInput(messages=[{"role": one.role, "content": one.text} for one in messages], response=response)
    return pb.ScoreItem(chat=chat, **limits)


def conversation_item(messages: Sequence[Message], **limits: Any) -> pb.ScoreItem:
    """A conversation whose last turn is scored. Raises ProblemError (422) where that is not the assistant's."""
    *context, last = messages
    if last.role != "assistant" or not context:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"the last of {len(messages)} messages has the role {last.role!r}: it is scored and must be the assistant's, behind another",
        )
    return chat_item(context, last.text, **limits)


def _answer(index: int, answer: pb.ScoredResponse) -> Answer:
    try:
        rewards = () if answer.error else token_rewards(answer, None).rewards
        problem = answer.error
    except InputError as error:
        rewards, problem = (), str(error)
    total = short(math.fsum(rewards))
    if problem or total is None:
        why = problem or "the sum of its rewards is beyond float32"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"input {index} cannot be scored: {why}")
    return Answer(rewards=floats(rewards), total=total, prompt_tokens=answer.prompt_tokens, trailing_tokens=answer.trailing_tokens)
