"""Responses of a model to held-out problems, sampled with the generator's own engine and judged by `oprime verify`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from oprime.core.types import ChatMessage, rollout_seed
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.tasks.prose.problem import Problem
from oprime_generator.sampler import Sampler, SampleRequest
from recipe.command import oprime, read_lines, write_lines
from recipe.figures import Judged

MOST_PROMPT_TOKENS, MOST_RESPONSE_TOKENS = 64, 96
SEED = 1


def judged_responses(model: Path, problems: Sequence[Problem], number: int, folder: Path, backend: str) -> list[Judged]:
    """`number` responses to each problem at temperature 1, with their scores. Goes on with what `folder` has."""
    answers, verdicts = folder / "answers.jsonl", folder / "verdicts.jsonl"
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


async def _sampled(model: Path, problems: Sequence[Problem], number: int, backend: str) -> list[list[str]]:
    tokenizer = load_tokenizer(model)
    prompts = [tuple(render_prompt(tokenizer, [ChatMessage(role="user", content=posed.prompt)])) for posed in problems]
    sampler = _sampler(model, backend)
    await sampler.start()
    try:
        return [
            list(texts)
            for texts in await asyncio.gather(
                *(
                    asyncio.gather(*(_sample(sampler, prompt, place, index) for index in range(number)))
                    for place, prompt in enumerate(prompts)
                )
            )
        ]
    finally:
        await sampler.close()


async def _sample(sampler: Sampler, prompt: tuple[int, ...], place: int, index: int) -> str:
    request = SampleRequest(
        request_id=f"{place}-{index}",
        prompt_ids=prompt,
        temperature=1.0,
        max_tokens=MOST_RESPONSE_TOKENS,
        seed=rollout_seed(SEED, place, index),
    )
    return (await sampler.sample(request)).text


def _sampler(model: Path, backend: str) -> Sampler:
    room = {"max_prompt_tokens": MOST_PROMPT_TOKENS, "max_response_tokens": MOST_RESPONSE_TOKENS}
    if backend == "transformers":
        from oprime_generator.transformers_sampler import TransformersSampler

        return TransformersSampler(model, version=0, **room)
    from oprime_generator.config import GeneratorSection
    from oprime_generator.vllm_sampler import VllmSampler

    return VllmSampler(model, version=0, settings=GeneratorSection(cpu_cache_gib=0.5, max_running_rollouts=128), **room)
