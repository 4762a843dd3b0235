"""Tiny models that also take images or sound (Gemma 3, Gemma 3n, Qwen3.5), and their text models alone, for tests of what loads them.

What a family has of eyes and ears is there and random. Sizes are those of the text model; the last tokens of the vocabulary are those of
images.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3nConfig,
    Gemma3nTextConfig,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
)

from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel

Sizes = Mapping[str, Any]

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64, "initializer_range": 0.1, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
SLIDING = {"num_hidden_layers": 4, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2, "tie_word_embeddings": False,
}  # fmt: skip


def gemma_3(directory: Path, sizes: Sizes = SIZES) -> PreTrainedModel:
    tokens = sizes["vocab_size"]
    config = Gemma3Config(
        text_config={**sizes, **SLIDING},
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4, image_token_index=tokens - 1, boi_token_index=tokens - 2, eoi_token_index=tokens - 3, **_special(sizes),
    )  # fmt: skip
    return _written(Gemma3ForConditionalGeneration, config, directory)


def qwen_3_5(directory: Path, sizes: Sizes = SIZES) -> PreTrainedModel:
    tokens = sizes["vocab_size"]
    config = Qwen3_5Config(
        text_config={**sizes, **LINEAR},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16,
        },
        image_token_id=tokens - 1, video_token_id=tokens - 2, vision_start_token_id=tokens - 3, vision_end_token_id=tokens - 4,
        **_special(sizes),
    )  # fmt: skip
    model = _written(Qwen3_5ForConditionalGeneration, config, directory)
    # Qwen's files also have layers that predict further tokens.
    with_more(directory, {"mtp.fc.weight": torch.ones(2, 3)})
    return model


def qwen_3_5_text(directory: Path, sizes: Sizes = SIZES) -> PreTrainedModel:
    model = random_causal_lm(Qwen3_5TextConfig(**{**sizes, **LINEAR}), 0)
    model.save_pretrained(directory)
    return model


def gemma_3n_text(directory: Path, sizes: Sizes = SIZES) -> PreTrainedModel:
    own: dict[str, Any] = {**sizes, **SLIDING, "intermediate_size": [sizes["intermediate_size"]] * 4}
    config = Gemma3nTextConfig(
        **own, vocab_size_per_layer_input=sizes["vocab_size"], hidden_size_per_layer_input=16, num_kv_shared_layers=2,
        laurel_rank=8, altup_num_inputs=2, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0], final_logit_softcapping=30.0,
    )  # fmt: skip
    model = random_causal_lm(config, 0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("correct_output_scale"):
                # New models have 0 here, which hides their embeddings per layer.
                parameter.copy_(torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(directory)
    return model


def gemma_3n(directory: Path, sizes: Sizes = SIZES) -> PreTrainedModel:
    """Its ears and eyes are models of packages of their own: what stands for them here is only read as files."""
    model = gemma_3n_text(directory, sizes)
    text = {
        name.replace("model.", "model.language_model.", 1): tensor for name, tensor in load_file(directory / "model.safetensors").items()
    }
    save_file(text, directory / "model.safetensors", {"format": "pt"})
    more = {"model.vision_tower.timm_model.blocks.weight": torch.ones(2), "model.audio_tower.conformer.weight": torch.ones(4)}
    with_more(
        directory, {**more, "model.embed_vision.embedding.weight": torch.ones(3), "model.embed_audio.embedding.weight": torch.ones(5)}
    )
    config = Gemma3nConfig(text_config=json.loads((directory / "config.json").read_text()), **_special(sizes))
    config.architectures = ["Gemma3nForConditionalGeneration"]
    config.save_pretrained(directory)
    return model


FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "Gemma 3": gemma_3,
    "Gemma 3n, text alone": gemma_3n_text,
    "Gemma 3n": gemma_3n,
    "Qwen3.5, text alone": qwen_3_5_text,
    "Qwen3.5": qwen_3_5,
}
"""Each writes a model directory, without a tokenizer, and gives transformers' own model."""


def with_more(directory: Path, tensors: dict[str, Tensor]) -> None:
    file = directory / "model.safetensors"
    save_file(load_file(file) | tensors, file, {"format": "pt"})


def published(model: TokenLogprobModel) -> dict[str, Tensor]:
    """A copy of all weights under the names of the files, as they are published."""
    own = dict([*model.causal_lm.named_parameters(), *model.causal_lm.named_buffers()])
    stored = model.causal_lm.state_dict()
    return dict(model.as_in_files((name, tensor.detach().clone()) for name, tensor in own.items() if name in stored))


def is_beside_text(name: str) -> bool:
    """Whether a weight, by its name in files, is not of the text model that is trained."""
    return any(part in name for part in ("vis", "audio", "multi_modal", "mtp"))


def _special(sizes: Sizes) -> dict[str, Any]:
    return {name: sizes[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


def _written(kind: Any, config: Any, directory: Path) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
    model.save_pretrained(directory)
    return model
