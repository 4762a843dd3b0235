"""The transformers sampler follows to new weights of models whose files have another form than their memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3Config, GPTNeoXConfig, MixtralConfig, Qwen3MoeConfig

from oprime.lm.models import random_causal_lm
from oprime_generator.sampler import SampledResponse, SampleRequest
from oprime_generator.transformers_sampler import TransformersSampler
from tiny_policies import BOS, END, PAD, VOCABULARY, full_logprobs, write_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD,
}  # fmt: skip
EYES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "Mixtral": lambda: MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4),
    "Qwen3-MoE": lambda: Qwen3MoeConfig(**SIZES, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48),
    "GPT-NeoX": lambda: GPTNeoXConfig(**SIZES),
    "Gemma 3, which takes images": lambda: Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 2, "head_dim": 32},
        vision_config=EYES,
        image_token_index=VOCABULARY - 1,
    ),
}
PROMPT = (5, 6, 7, 8)


@pytest.mark.parametrize("name", FAMILIES)
async def test_it_samples_with_the_newest_weights(name: str, tmp_path: Path) -> None:
    directories = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, directory in enumerate(directories):
        random_causal_lm(FAMILIES[name](), seed).save_pretrained(directory)
        write_tokenizer(directory)
    sampler = TransformersSampler(directories[0], version=0, max_prompt_tokens=8, max_response_tokens=12)
    await sampler.start()
    try:
        assert_from(directories[0], await sampler.sample(request("before")))
        await sampler.load(directories[1], 1)
        after = await sampler.sample(request("after"))
        assert_from(directories[1], after)
        with pytest.raises(AssertionError):
            assert_from(directories[0], after)
    finally:
        await sampler.close()


def request(name: str) -> SampleRequest:
    return SampleRequest(request_id=name, prompt_ids=PROMPT, temperature=1.0, max_tokens=12, seed=3)


def assert_from(directory: Path, response: SampledResponse) -> None:
    assert response.behaviour_logprobs == pytest.approx(full_logprobs(directory, PROMPT, response.response_ids, 1.0), abs=2e-3)
