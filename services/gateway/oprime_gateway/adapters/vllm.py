"""vLLM's pooling server: /pooling with a number per token, /score (and /v1/score) with one per pair; /classify is in classify.py."""

import time
import uuid
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field

from oprime_gateway.adapters.asking import Answer, OthersModel, Turn, Usage, ask, chat_item, conversation_item, text_item, token_item
from oprime_gateway.columns import in_base64, sigmoid
from oprime_gateway.models import TokenId
from oprime_gateway.problems import PROBLEMS, ProblemError
from oprime_gateway.score import user_message
from oprime_gateway.strict_json import StrictRoute
from oprime_proto.v1 import prm_pb2 as pb

router = APIRouter(route_class=StrictRoute, tags=["adapters"])

Ids = Annotated[list[Annotated[TokenId, Field(strict=True)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]
SIDES = {"left": pb.TRUNCATION_LEFT, "right": pb.TRUNCATION_RIGHT, None: pb.TRUNCATION_RIGHT}


class PoolingOptions(OthersModel):
    """What vLLM's requests have in common."""

    model: str | None = None
    """`prm@VERSION` is a pin; any other name means the PRM as it is."""
    use_activation: bool | None = Field(default=None, strict=True)
    """Whether numbers go through a sigmoid. They do not by default: rewards are raw."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1, strict=True)] | None = None
    """Most tokens of an input; -1 for what the model can take. Without it an input that is too long is refused."""
    truncation_side: Literal["left", "right"] | None = None
    """Where tokens are left out: of the prompt (left) or of the response (right, the default)."""

    @property
    def limits(self) -> dict[str, Any]:
        most = self.truncate_prompt_tokens
        return {} if most in (None, 0) else {"truncation": SIDES[self.truncation_side], "max_tokens": max(0, most)}

    def shown(self, reward: float) -> float:
        return sigmoid(reward) if self.use_activation else reward


class OfInput(PoolingOptions):
    """Text or tokens in which prompt and response follow each other."""

    input: str | Texts | Ids | Annotated[list[Ids], Field(min_length=1)]
    """In a text the response begins behind the last generation prompt of the chat template, or else behind the first token; of token ids
    all but the first get a reward."""

    @property
    def items(self) -> list[pb.ScoreItem]:
        given = [self.input] if isinstance(self.input, str) or isinstance(self.input[0], int) else self.input
        return [text_item("", one, **self.limits) if isinstance(one, str) else token_item(one, **self.limits) for one in given]  # pyright: ignore[reportArgumentType]


class OfMessages(PoolingOptions):
    """A conversation whose last message, the assistant's, is scored."""

    messages: Annotated[list[Turn], Field(min_length=2)]
    """The chat template is applied; the end token is scored too."""

    @property
    def items(self) -> list[pb.ScoreItem]:
        return [conversation_item(self.messages, **self.limits)]


class PoolingForm(OthersModel):
    task: Literal["token_classify", "classify"] | None = None
    """`token_classify`, the default, gives a number per token, `classify` one per input."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64`: little-endian float32."""
    embed_dtype: Literal["float32"] = "float32"
    """Of base64."""
    endianness: Literal["native", "little"] = "native"
    """Of base64."""
    dimensions: None = None
    """A reward has one."""


class PoolingOfInput(OfInput, PoolingForm):
    """A pooling request for text or tokens."""


class PoolingOfMessages(OfMessages, PoolingForm):
    """A pooling request for a conversation."""


class PoolingData(OthersModel):
    index: int
    object: Literal["pooling"] = "pooling"
    data: list[list[float]] | list[float] | str
    """A row for each token, 0 for those of the prompt and behind the end token."""


class PoolingResponse(OthersModel):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    """`prm@VERSION` that gave the rewards."""
    data: list[PoolingData]
    usage: Usage


class ScoreOfPairs(PoolingOptions):
    """Prompts and responses; one prompt goes with every response."""

    queries: str | Texts = Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))
    """Prompts, each the text of one user message."""
    documents: str | Texts = Field(validation_alias=AliasChoices("documents", "items", "text_2", "data_2"))
    """Responses."""

    @property
    def items(self) -> list[pb.ScoreItem]:
        queries, documents = ([one] if isinstance(one, str) else one for one in (self.queries, self.documents))
        if len(queries) not in (1, len(documents)):
            counts = f"{len(queries)} queries for {len(documents)} documents"
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{counts}: send one query, or as many as documents")
        pairs = zip(queries * (len(documents) // len(queries)), documents, strict=True)
        return [chat_item([user_message(query)], document, **self.limits) for query, document in pairs]


class ScoreData(OthersModel):
    index: int
    object: Literal["score"] = "score"
    score: float
    """The response's reward."""


class ScoreResponse(OthersModel):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    """`prm@VERSION` that gave the rewards."""
    data: list[ScoreData]
    usage: Usage


@router.post("/pooling", responses=PROBLEMS)
async def pooling(body: PoolingOfInput | PoolingOfMessages, request: Request) -> PoolingResponse:
    """Token rewards in the form of vLLM's pooling server."""
    answers = await ask(request, body.items, body.model)
    return PoolingResponse(
        id=f"pool-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=answers.revision,
        data=[PoolingData(index=index, data=_pooled(body, item)) for index, item in enumerate(answers.items)],
        usage=answers.usage,
    )


@router.post("/v1/score", responses=PROBLEMS)
@router.post("/score", responses=PROBLEMS)
async def score_pairs(body: ScoreOfPairs, request: Request) -> ScoreResponse:
    """Rewards of responses to prompts in the form of vLLM's score server."""
    answers = await ask(request, body.items, body.model)
    return ScoreResponse(
        id=f"score-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=answers.revision,
        data=[ScoreData(index=index, score=body.shown(item.total)) for index, item in enumerate(answers.items)],
        usage=answers.usage,
    )


def _pooled(body: PoolingOfInput | PoolingOfMessages, item: Answer) -> list[list[float]] | list[float] | str:
    if body.task == "classify":
        values = [body.shown(item.total)]
        return in_base64(values, "<f4") if body.encoding_format == "base64" else values
    values = [0.0] * item.prompt_tokens + [body.shown(reward) for reward in item.rewards] + [0.0] * item.trailing_tokens
    return in_base64(values, "<f4") if body.encoding_format == "base64" else [[value] for value in values]
