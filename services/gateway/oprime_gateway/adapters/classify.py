"""POST /classify, a path that vLLM and SGLang share: `input` and `messages` are vLLM's, `text` and `input_ids` SGLang's."""

import time
import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from oprime_gateway.adapters.asking import OthersModel, Usage, ask, text_item, token_item
from oprime_gateway.adapters.vllm import Ids, OfInput, OfMessages, Texts
from oprime_gateway.problems import PROBLEMS
from oprime_gateway.strict_json import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["adapters"])


class ClassifiedText(OthersModel):
    index: int
    label: str | None
    """A reward has none."""
    probs: list[float]
    """The reward; with `use_activation` its sigmoid."""
    num_classes: Literal[1] = 1


class ClassifyResponse(OthersModel):
    """vLLM's answer, and that of SGLang's /v1/classify."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    """`prm@VERSION` that gave the rewards."""
    data: list[ClassifiedText]
    usage: Usage


class SglangTexts(OthersModel):
    """SGLang's own request for texts."""

    text: str | Texts
    """As `input` of vLLM."""


class SglangIds(OthersModel):
    """SGLang's own request for token ids."""

    input_ids: Ids | Annotated[list[Ids], Field(min_length=1)]
    """All but the first get a reward."""


class MetaInfo(OthersModel):
    id: str
    prompt_tokens: int
    """All tokens that were read."""
    model: str
    """`prm@VERSION` that gave the reward."""


class SglangAnswer(OthersModel):
    """SGLang's own answer, one for each text."""

    embedding: list[float]
    """The reward alone."""
    meta_info: MetaInfo


async def classified(body: OfInput | OfMessages, request: Request) -> ClassifyResponse:
    answers = await ask(request, body.items, body.model)
    return ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=answers.revision,
        data=[ClassifiedText(index=index, label=None, probs=[body.shown(item.total)]) for index, item in enumerate(answers.items)],
        usage=answers.usage,
    )


@router.post("/classify", responses=PROBLEMS)
async def classify(
    body: OfInput | OfMessages | SglangTexts | SglangIds, request: Request
) -> ClassifyResponse | SglangAnswer | list[SglangAnswer]:
    """One reward per input in the form of vLLM's or SGLang's classification server."""
    if isinstance(body, OfInput | OfMessages):
        return await classified(body, request)
    if isinstance(body, SglangTexts):
        single = isinstance(body.text, str)
        items = [text_item("", text) for text in ([body.text] if isinstance(body.text, str) else body.text)]
    else:
        single = isinstance(body.input_ids[0], int)
        items = [token_item(ids) for ids in ([body.input_ids] if single else body.input_ids)]  # pyright: ignore[reportArgumentType]
    answers = await ask(request, items)
    found = [
        SglangAnswer(embedding=[item.total], meta_info=MetaInfo(id=uuid.uuid4().hex, prompt_tokens=item.tokens, model=answers.revision))
        for item in answers.items
    ]
    return found[0] if single else found
