"""SGLang's reward models: /v1/classify and /v1/embeddings; its own /classify is in classify.py. One number per input."""

from typing import Literal

from fastapi import APIRouter, Request

from oprime_gateway.adapters.asking import OthersModel, Usage, ask
from oprime_gateway.adapters.classify import ClassifyResponse, classified
from oprime_gateway.adapters.vllm import OfInput
from oprime_gateway.problems import PROBLEMS
from oprime_gateway.strict_json import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["adapters"])


class Embedding(OthersModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float]
    """The reward alone."""


class EmbeddingsResponse(OthersModel):
    object: Literal["list"] = "list"
    model: str
    """`prm@VERSION` that gave the rewards."""
    data: list[Embedding]
    usage: Usage


@router.post("/v1/classify", responses=PROBLEMS)
async def classify(body: OfInput, request: Request) -> ClassifyResponse:
    """One reward per input in the form of SGLang's classification server."""
    return await classified(body, request)


@router.post("/v1/embeddings", responses=PROBLEMS)
async def embeddings(body: OfInput, request: Request) -> EmbeddingsResponse:
    """One reward per input as an embedding of one number, the form in which SGLang serves reward models."""
    answers = await ask(request, body.items, body.model)
    return EmbeddingsResponse(
        model=answers.revision,
        data=[Embedding(index=index, embedding=[body.shown(item.total)]) for index, item in enumerate(answers.items)],
        usage=answers.usage,
    )
