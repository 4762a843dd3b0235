"""A model on this machine, sampled for an evaluation with the transformers sampler; with vLLM in tests/e2e."""

from pathlib import Path

import pytest

from oprime.core.types import ChatMessage, Task
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.runtime.errors import UnusableInputError
from oprime_cli.evaluating.local_model import LocalSampling, LocalSettings
from oprime_generator.config import GeneratorSection
from tiny_policies import POSITIONS, write_policy


def asked(words: int) -> Problem:
    text = " ".join(f"w{3 + place % 30}" for place in range(words))
    return Problem(
        id=str(words),
        index=0,
        task=Task(messages=(ChatMessage(role="user", content=text),), verifier="exact", ground_truth="1", data_source=""),
    )


async def test_responses_follow_from_decoding_and_seed_and_fit_the_models_context(tmp_path: Path) -> None:
    write_policy(tmp_path)
    model = LocalSampling(LocalSettings(directory=tmp_path, generator=GeneratorSection(backend="transformers")))
    problems = [asked(4), asked(POSITIONS - 3), asked(POSITIONS + 5)]
    await model.start([problem.task.messages for problem in problems], 5000)
    try:
        greedy = [await model.sample(problems[0], 0, Decoding(max_tokens=6), seed) for seed in (1, 2)]
        assert greedy[0] == greedy[1]
        assert 1 <= greedy[0].tokens <= 6
        sampled = [await model.sample(problems[0], 0, Decoding(temperature=1.0, max_tokens=6), seed) for seed in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]
        # The prompt leaves room for three tokens.
        assert (await model.sample(problems[1], 0, Decoding(max_tokens=5000), 0)).tokens <= 3
        with pytest.raises(UnusableInputError, match="the prompt has 1029 tokens, and the model's context 1024"):
            await model.sample(problems[2], 0, Decoding(), 0)
    finally:
        await model.close()
