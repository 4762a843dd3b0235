"""Responses of a model to held-out problems, sampled with the generator's own engine and judged by `oprime verify`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from oprime.core.types import ChatMessage, rollout_seed
from oprime.tasks.prose.problem import Problem
from oprime_cli.chat.model import ChatRequest
from oprime_cli.chat.settings import ChatModelSection, chat_model
from recipe.command import oprime, read_lines, write_lines
from recipe.figures import Judged

MOST_PROMPT_TOKENS, MOST_RESPONSE_TOKENS = 64, 96
SEED = 1
AT_ONCE = 128
ANSWERS, VERDICTS = "answers.jsonl", "verdicts.jsonl"
Backend = Literal["vllm", "transformers"]


def judged_responses(model: Path, problems: Sequence[Problem], number: int, folder: Path, backend: Backend) -> list[Judged]:
    """`number` responses to each problem at temperature 1, with their scores. Goes on with what `folder` has."""
    answers, verdicts = folder / ANSWERS, folder / VERDICTS
    if not answers.exists():
        texts = asyncio.run(_sampled(model, problems, number, backend))
        write_lines(answers, (_row(posed, text) for posed, several in zip(problems, texts, strict=True) for text in several))
    oprime("verify", str(answers), "--out", str(verdicts))
    rows, scores = list(read_lines(answers)), [row["score"] for row in read_lines(verdicts)]
    if None in scores:
        raise SystemExit(f"{verdicts}: a response was not judged; remove {folder} and repeat the command")
    return [
        Judged(
            kind=posed.kind,
            prompt=posed.prompt,
            responses=tuple(row["response"] for row in rows[place * number : (place + 1) * number]),
            scores=tuple(scores[place * number : (place + 1) * number]),
        )
        for place, posed in enumerate(problems)
    ]


def _row(posed: Problem, text: str) -> dict[str, object]:
    return {"id": posed.prompt, "kind": posed.kind, "response": text, "ground_truth": posed.ground_truth}


async def _sampled(model: Path, problems: Sequence[Problem], number: int, backend: Backend) -> list[list[str]]:
    section = ChatModelSection(
        path=str(model),
        backend=backend,
        dtype="float32",
        at_once=AT_ONCE,
        max_prompt_tokens=MOST_PROMPT_TOKENS,
        max_response_tokens=MOST_RESPONSE_TOKENS,
    )
    async with chat_model(section) as asked:
        requests = [
            ChatRequest(
                messages=(ChatMessage(role="user", content=posed.prompt),),
                max_tokens=MOST_RESPONSE_TOKENS,
                seed=rollout_seed(SEED, place, index),
            )
            for place, posed in enumerate(problems)
            for index in range(number)
        ]
        texts = [response.text for response in await asyncio.gather(*map(asked.respond, requests))]
    return [texts[place * number : (place + 1) * number] for place in range(len(problems))]
