"""Each family's published weights are those that vLLM samples with: its log-probs are the trainer's, at the start and after an update."""

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    Cohere2Config,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

import more_than_text
from oprime.adapters.store_weights import StoreWeights
from oprime.core.token_rows import token_rows
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.errors import SettingsError
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampledResponse, SampleRequest
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import BOS, END, PAD, VOCABULARY, write_tokenizer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    # vLLM's own modules warn on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(280),
]

POSITIONS = 256
SPECIAL: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "initializer_range": 0.2, **SPECIAL,
}  # fmt: skip
NEO: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
FALCON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2, **SPECIAL,
}  # fmt: skip
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 16, "long_factor": [4.0] * 16, "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "Llama": lambda: LlamaConfig(**SIZES),
    "Qwen3": lambda: Qwen3Config(**SIZES),
    "Gemma 2": lambda: Gemma2Config(**SIZES, head_dim=32, sliding_window=64),
    "Gemma 3": lambda: Gemma3TextConfig(**SIZES, head_dim=32, sliding_window=64),
    "Mistral with a window": lambda: MistralConfig(**SIZES, sliding_window=16),
    "Phi-3 with LongRoPE": lambda: Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=dict(LONGROPE)),
    "GPT-2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=POSITIONS, initializer_range=0.2, **SPECIAL
    ),
    "GPT-NeoX": lambda: GPTNeoXConfig(**NEO),
    "OPT": lambda: OPTConfig(
        vocab_size=VOCABULARY, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=64,
        max_position_embeddings=POSITIONS, init_std=0.2, **SPECIAL,
    ),
    "Granite": lambda: GraniteConfig(**SIZES),
    "Cohere 2 within its window": lambda: Cohere2Config(**SIZES, sliding_window=128),
    "Falcon": lambda: FalconConfig(**FALCON),
    "Falcon with ALiBi": lambda: FalconConfig(**FALCON, alibi=True),
    "Falcon, new form": lambda: FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=1),
    "Bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=2, initializer_range=0.2, **SPECIAL),
    "Mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4),
    "Qwen3-MoE": lambda: Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
    "OLMoE": lambda: OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "DeepSeek V3": lambda: DeepseekV3Config(
        **SIZES, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, n_group=1, topk_group=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, first_k_dense_replace=1,
    ),
    "Mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, initializer_range=0.2, **SPECIAL),
}  # fmt: skip
EXPERTS = ("Mixtral", "Qwen3-MoE", "OLMoE", "DeepSeek V3")
STATES = ("Mamba", "Qwen3.5, text alone", "Qwen3.5")
NEVER = ("Gemma 3n, text alone", "Gemma 3n")
EYES = "Gemma 3 for images"
SEES = importlib.util.find_spec("torchvision") is not None
"""Whether vLLM's code of models for images can be imported."""
NO_CPU = r'.* generator\.backend = "transformers", or sample on a GPU'
REFUSALS = {
    **dict.fromkeys(EXPERTS, "is a mixture of experts" + NO_CPU),
    **dict.fromkeys(STATES, "has layers with a state" + NO_CPU),
    **dict.fromkeys(NEVER, r'leaves out where prompts are text.*: set generator\.backend = "transformers"'),
}
PROMPT = tuple(3 + (7 * place) % 37 for place in range(40))


def write_model(name: str, directory: Path) -> None:
    if name in FAMILIES:
        random_causal_lm(FAMILIES[name](), 0).save_pretrained(directory)
    else:
        more_than_text.FAMILIES["Gemma 3" if name == EYES else name](directory, more_than_text.SIZES | SIZES)
    write_tokenizer(directory)


@pytest.mark.parametrize(
    "name",
    [
        *[name for name in FAMILIES if name not in REFUSALS],
        pytest.param(EYES, marks=pytest.mark.skipif(not SEES, reason="vLLM's code of it needs torchvision")),
    ],
)
async def test_vllm_samples_with_the_weights_that_are_published(name: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    write_model(name, start)
    model = TokenLogprobModel(load_causal_lm(start, longest=70), 64)
    sampler = sampler_of(start)
    await sampler.start()
    try:
        await assert_same_log_probs(sampler, model)
        with torch.no_grad():
            noise = torch.Generator().manual_seed(1)
            for parameter in model.causal_lm.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
        names = {name for name, _ in (*model.causal_lm.named_parameters(), *model.causal_lm.named_buffers())}
        weights = ((key, tensor) for key, tensor in model.causal_lm.state_dict().items() if key in names)
        store = StoreWeights(str(tmp_path / "store"), template=start)
        await sampler.load(store.publish(1, model.as_in_files(weights), parent=None).directory, 1)
        await assert_same_log_probs(sampler, model)
    finally:
        await sampler.close()


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_vllm_would_sample_wrongly_on_a_cpu_is_refused(name: str, tmp_path: Path) -> None:
    if torch.cuda.is_available() and name not in NEVER:
        pytest.skip("a GPU is here")
    write_model(name, tmp_path)
    with pytest.raises(SettingsError, match=REFUSALS[name]):
        await sampler_of(tmp_path).start()


@pytest.mark.skipif(SEES, reason="torchvision is here")
async def test_a_package_that_vllm_needs_for_a_model_and_does_not_find_is_named(tmp_path: Path) -> None:
    write_model(EYES, tmp_path)
    with pytest.raises(SettingsError, match=r'needs the package torchvision.*install it, or set generator\.backend = "transformers"'):
        await sampler_of(tmp_path).start()


def sampler_of(directory: Path) -> VllmSampler:
    settings = GeneratorSection(cpu_cache_gib=0.05, max_running_rollouts=8)
    return VllmSampler(directory, version=0, settings=settings, max_prompt_tokens=40, max_response_tokens=30)


async def assert_same_log_probs(sampler: VllmSampler, model: TokenLogprobModel) -> None:
    responses: list[SampledResponse] = await asyncio.gather(
        *[
            sampler.sample(SampleRequest(request_id=f"{seed}", prompt_ids=PROMPT, temperature=1.0, max_tokens=30, seed=seed))
            for seed in range(6)
        ]
    )
    rows = token_rows([PROMPT] * 6, [one.response_ids for one in responses], pad_id=PAD)
    found = model(rows.input_ids, rows.attention_mask, rows.is_trained).detach()
    for place, response in enumerate(responses):
        assert response.behaviour_logprobs == pytest.approx(found[place][rows.is_trained[place]].tolist(), abs=5e-3)
