"""A model on this machine, sampled for an evaluation with the transformers sampler; with vLLM in tests/e2e."""

import threading
from pathlib import Path

import pytest

from oprime.core.types import ChatMessage, Task
from oprime.evaluation.benchmark import Decoding, Problem
from oprime.lm.lora import add_adapter, merged
from oprime.runtime.errors import UnusableInputError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection
from oprime_cli.chat.local import Adapter
from oprime_cli.evaluating.local_model import LocalSampling, LocalSettings
from oprime_generator.config import GeneratorSection
from tiny_adapters import moved, write_adapter
from tiny_policies import POSITIONS, write_policy


def asked(words: int) -> Problem:
    text = " ".join(f"w{3 + place % 30}" for place in range(words))
    return Problem(
        id=str(words),
        index=0,
        task=Task(messages=(ChatMessage(role="user", content=text),), verifier="exact", ground_truth="1", data_source=""),
    )


async def responses(settings: LocalSettings) -> list[str]:
    """Greedy ones to three problems."""
    model, problems = LocalSampling(settings), [asked(words) for words in (4, 9, 14)]
    await model.start([problem.task.messages for problem in problems], 12)
    try:
        return [(await model.sample(problem, 0, Decoding(max_tokens=12), 0)).text for problem in problems]
    finally:
        await model.close()


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """On the model in `tmp_path/base`; the two added up are in `tmp_path/whole`."""
    base, lora = tmp_path / "base", LoraSection(rank=4, alpha=8.0)
    adapted = moved(add_adapter(write_policy(base), lora, seed=0))
    whole = write_policy(tmp_path / "whole", seed=1)
    whole.load_state_dict(dict(merged(adapted, adapted.named_parameters())))
    whole.save_pretrained(tmp_path / "whole")
    return Adapter(directory=write_adapter(adapted, base, tmp_path / "adapter"), lora=lora)


async def test_an_adapter_on_its_model_responds_as_the_two_added_up(tmp_path: Path, adapter: Adapter) -> None:
    generator = GeneratorSection(backend="transformers")
    found = await responses(LocalSettings(directory=tmp_path / "base", adapter=adapter, version=3, generator=generator))
    assert found == await responses(LocalSettings(directory=tmp_path / "whole", generator=generator))
    assert found != await responses(LocalSettings(directory=tmp_path / "base", generator=generator))


async def test_an_adapter_of_another_model_is_refused(tmp_path: Path, adapter: Adapter) -> None:
    settings = LocalSettings(directory=tmp_path / "whole", adapter=adapter, generator=GeneratorSection(backend="transformers"))
    with pytest.raises(WeightsRefusedError, match=r"adapter .* belongs to .*base \(fingerprint .* but the model here is .*whole"):
        await responses(settings)
    assert "sampler" not in {thread.name for thread in threading.enumerate()}, "it is closed"


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
