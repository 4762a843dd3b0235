"""slime's remote reward model: `--rm-type remote_rm --rm-url http://GATEWAY/slime`. The body of the answer is the reward."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, JsonValue

from oprime_gateway.adapters.asking import OthersModel, Turn, ask, chat_item, text_item
from oprime_gateway.problems import PROBLEMS
from oprime_gateway.strict_json import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["adapters"])


class SlimeSample(OthersModel):
    """What slime sends of a sample."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[Turn], Field(min_length=1)]
    """Text as the policy read it, templates included; or messages, to which the chat template is applied."""
    response: str
    """Behind a text it is scored as it stands; behind messages the end token is scored too."""
    label: JsonValue = None
    """Not read: process rewards need no ground truth."""


class SlimeRewards(OthersModel):
    reward: float
    """Sum of the token rewards: `--reward-key reward`."""
    token_rewards: list[float]
    """One per response token."""


@router.post("/slime", responses=PROBLEMS)
async def slime(
    body: SlimeSample, request: Request, details: Annotated[Literal["true", "false"], Query()] = "false"
) -> float | SlimeRewards:
    """A reward in the form of slime's remote reward model; with `details=true` an object that has those of the tokens too."""
    item = text_item(body.prompt, body.response) if isinstance(body.prompt, str) else chat_item(body.prompt, body.response)
    (answer,) = (await ask(request, [item])).items
    return SlimeRewards(reward=answer.total, token_rewards=answer.rewards) if details == "true" else answer.total
