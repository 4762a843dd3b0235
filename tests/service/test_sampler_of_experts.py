"""The transformers sampler follows to new weights of models whose files have another form, or more, than their memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, MambaConfig, MixtralConfig, Qwen3MoeConfig

import more_than_text
from oprime.lm.models import random_causal_lm
from oprime_generator.sampler import SampledResponse, SampleRequest
from oprime_generator.transformers_sampler import TransformersSampler
from tiny_policies import BOS, END, PAD, VOCABULARY, full_logprobs, write_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "Mixtral": lambda: MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4),
    "Qwen3-MoE": lambda: Qwen3MoeConfig(**SIZES, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48),
    "GPT-NeoX": lambda: GPTNeoXConfig(**SIZES),
    # Not held in another form, but what it keeps of earlier tokens has another name.
    "Mamba": lambda: MambaConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, initializer_range=0.2, bos_token_id=BOS, eos_token_id=END,
        pad_token_id=PAD,
    ),
}  # fmt: skip
PROMPT = (5, 6, 7, 8)


@pytest.mark.parametrize("name", FAMILIES)
async def test_it_samples_with_the_newest_weights(name: str, tmp_path: Path) -> None:
    directories = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, directory in enumerate(directories):
        random_causal_lm(FAMILIES[name](), seed).save_pretrained(directory)
        write_tokenizer(directory)
    await assert_follows(*directories)


@pytest.mark.parametrize("family", more_than_text.FAMILIES)
async def test_it_samples_with_the_newest_weights_of_models_for_images_or_sound(family: str, tmp_path: Path) -> None:
    directories = [tmp_path / name for name in ("before", "after")]
    for directory in directories:
        more_than_text.FAMILIES[family](directory, more_than_text.SIZES | SIZES)
        write_tokenizer(directory)
    noise = torch.Generator().manual_seed(0)
    trained = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=noise)
        for name, tensor in load_file(directories[1] / "model.safetensors").items()
        if not more_than_text.is_beside_text(name)
    }
    more_than_text.with_more(directories[1], trained)
    await assert_follows(*directories)


async def assert_follows(before: Path, after: Path) -> None:
    sampler = TransformersSampler(before, version=0, max_prompt_tokens=8, max_response_tokens=12)
    await sampler.start()
    try:
        assert_from(before, await sampler.sample(request("before")))
        await sampler.load(after, 1)
        newest = await sampler.sample(request("after"))
        assert_from(after, newest)
        with pytest.raises(AssertionError):
            assert_from(before, newest)
    finally:
        await sampler.close()


def request(name: str) -> SampleRequest:
    return SampleRequest(request_id=name, prompt_ids=PROMPT, temperature=1.0, max_tokens=12, seed=3)


def assert_from(directory: Path, response: SampledResponse) -> None:
    assert response.behaviour_logprobs == pytest.approx(full_logprobs(directory, PROMPT, response.response_ids, 1.0), abs=2e-3)
