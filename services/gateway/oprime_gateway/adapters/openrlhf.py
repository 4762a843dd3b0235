"""OpenRLHF's remote reward model: `--reward.remote_url http://GATEWAY/get_reward`. One number per query."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, JsonValue, model_validator

from oprime_gateway.adapters.asking import OthersModel, ask, text_item
from oprime_gateway.columns import short
from oprime_gateway.problems import PROBLEMS
from oprime_gateway.strict_json import StrictRoute
from oprime_proto.v1 import prm_pb2 as pb

router = APIRouter(route_class=StrictRoute, tags=["adapters"])


class GetRewardRequest(OthersModel):
    """What OpenRLHF sends for the responses that it sampled."""

    query: Annotated[list[str], Field(min_length=1)]
    """Prompt and response as the tokenizer decodes them, special tokens included."""
    prompts: list[str] | None = None
    """The prompts alone. Without them a response begins behind the last generation prompt of the chat template."""
    labels: list[JsonValue] | None = None
    """Not read: process rewards need no ground truth."""

    @model_validator(mode="after")
    def one_prompt_per_query(self) -> "GetRewardRequest":
        if self.prompts is not None and len(self.prompts) != len(self.query):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self.query)} queries: send one prompt per query")
        return self


class ExtraLogs(OthersModel):
    response_tokens: list[int]
    """Tokens that were scored."""
    reward_per_token: list[float]
    """Mean reward of a token."""


class GetRewardResponse(OthersModel):
    rewards: list[float]
    """For each query the sum of its response's token rewards."""
    scores: list[float]
    """The same, which dynamic filtering looks at."""
    extra_logs: ExtraLogs
    """Logged beside the reward."""


@router.post("/get_reward", responses=PROBLEMS)
async def get_reward(body: GetRewardRequest, request: Request) -> GetRewardResponse:
    """Rewards in the form of OpenRLHF's remote reward model."""
    prompts = body.prompts or [""] * len(body.query)
    answers = await ask(request, [_item(query, prompt) for query, prompt in zip(body.query, prompts, strict=True)])
    totals = [item.total for item in answers.items]
    return GetRewardResponse(
        rewards=totals,
        scores=totals,
        extra_logs=ExtraLogs(
            response_tokens=[len(item.rewards) for item in answers.items],
            reward_per_token=[short(item.total / len(item.rewards)) or 0.0 for item in answers.items],
        ),
    )


def _item(query: str, prompt: str) -> pb.ScoreItem:
    """The tokenizer may have put a special token before the prompt."""
    before, found, response = query.partition(prompt) if prompt else ("", "", query)
    return text_item(before + found, response) if found else text_item("", query)
