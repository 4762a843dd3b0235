"""Models that also take images or sound (Gemma 3, Gemma 3n, Qwen3.5): their text model is trained, all else stays as it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
)

from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.lora import adapted_layers, add_adapter, require_published_under_own_names
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.errors import SettingsError
from oprime.runtime.training_settings import LoraSection

SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64, "initializer_range": 0.1, **SPECIAL,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention"] * 2
EYES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
}  # fmt: skip
ROWS = token_rows([[2, 3, 4, 5], [8, 9], [2, 3, 4, 5], [11]], [[12, 13, 14], [15, 16, 17, 18, 19], [34, 35, 36, 37], [38, 39]], pad_id=0)


def gemma_3(directory: Path) -> PreTrainedModel:
    config = Gemma3Config(
        text_config={**SIZES, "sliding_window": 32, "layer_types": LAYERS}, vision_config=EYES, mm_tokens_per_image=4, image_token_index=63,
        boi_token_index=62, eoi_token_index=61, **SPECIAL,
    )  # fmt: skip
    return written(Gemma3ForConditionalGeneration, config, directory)


def qwen_3_5(directory: Path) -> PreTrainedModel:
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
    config = Qwen3_5Config(
        text_config={**SIZES, **linear, "layer_types": ["linear_attention", "full_attention"] * 2, "tie_word_embeddings": False},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16,
        },
        image_token_id=63, video_token_id=62, vision_start_token_id=61, vision_end_token_id=60, **SPECIAL,
    )  # fmt: skip
    model = written(Qwen3_5ForConditionalGeneration, config, directory)
    # Qwen's files also have layers that predict further tokens.
    with_more(directory, {"mtp.fc.weight": torch.ones(2, 3)})
    return model


def gemma_3n_text(directory: Path) -> PreTrainedModel:
    sizes: dict[str, Any] = {**SIZES, "intermediate_size": [96] * 4}
    config = Gemma3nTextConfig(
        **sizes, vocab_size_per_layer_input=64, hidden_size_per_layer_input=16, num_kv_shared_layers=2,
        laurel_rank=8, altup_num_inputs=2, sliding_window=32, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0], layer_types=LAYERS,
        final_logit_softcapping=30.0,
    )  # fmt: skip
    model = random_causal_lm(config, 0)
    model.save_pretrained(directory)
    return model


def gemma_3n(directory: Path) -> PreTrainedModel:
    """Its ears and eyes are models of packages of their own: what stands for them here is only read as files."""
    model = gemma_3n_text(directory)
    text = {
        name.replace("model.", "model.language_model.", 1): tensor for name, tensor in load_file(directory / "model.safetensors").items()
    }
    save_file(text, directory / "model.safetensors", {"format": "pt"})
    more = {"model.vision_tower.timm_model.blocks.weight": torch.ones(2), "model.audio_tower.conformer.weight": torch.ones(4)}
    with_more(
        directory, {**more, "model.embed_vision.embedding.weight": torch.ones(3), "model.embed_audio.embedding.weight": torch.ones(5)}
    )
    config = Gemma3nConfig(text_config=json.loads((directory / "config.json").read_text()))
    config.architectures = ["Gemma3nForConditionalGeneration"]
    config.save_pretrained(directory)
    return model


def written(kind: Any, config: Any, directory: Path) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
    model.save_pretrained(directory)
    return model


def with_more(directory: Path, tensors: dict[str, Tensor]) -> None:
    file = directory / "model.safetensors"
    save_file(load_file(file) | tensors, file, {"format": "pt"})


FAMILIES: dict[str, Callable[[Path], PreTrainedModel]] = {
    "Gemma 3n, text alone": gemma_3n_text,
    "Gemma 3n": gemma_3n,
    "Gemma 3": gemma_3,
    "Qwen3.5": qwen_3_5,
}
PACKED = ("Gemma 3n, text alone", "Gemma 3n", "Gemma 3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, PreTrainedModel]]:
    """A directory of each family, and transformers' own model."""
    found: dict[str, tuple[Path, PreTrainedModel]] = {}
    for name, make in FAMILIES.items():
        directory = tmp_path_factory.mktemp("model")
        found[name] = (directory, make(directory))
    return found


Made = dict[str, tuple[Path, PreTrainedModel]]


def of_rows(model: TokenLogprobModel, rows: TokenRows = ROWS) -> Tensor:
    return model(rows.input_ids, rows.attention_mask, rows.is_trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_transformers_on_each_row_alone(family: str, made: Made) -> None:
    directory, theirs = made[family]
    model = TokenLogprobModel(load_causal_lm(directory), 8).train()
    assert (not model.packing.refusal) == (family in PACKED)
    found = of_rows(model)
    found.square().sum().backward()
    theirs.zero_grad()
    for place in range(len(ROWS.input_ids)):
        ids = ROWS.input_ids[place][ROWS.attention_mask[place]]
        logprobs = theirs(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None]).squeeze(-1)
        own = logprobs[ROWS.is_trained[place][1 : len(ids)]]
        torch.testing.assert_close(found[place][ROWS.is_trained[place]], own, rtol=0, atol=1e-5)
        own.square().sum().backward()
    expected = {in_text(name): parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    gradients = {in_text(name): parameter.grad for name, parameter in model.causal_lm.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1.0
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * largest, msg=lambda text, name=name: f"{name}: {text}")


def in_text(name: str) -> str:
    return name.replace(".language_model.", ".")


@pytest.mark.parametrize("family", FAMILIES)
def test_versions_have_all_that_the_files_have_and_new_weights_for_text(family: str, made: Made) -> None:
    directory, _ = made[family]
    files = load_file(directory / "model.safetensors")
    model = TokenLogprobModel(load_causal_lm(directory), 8)
    assert_equal(published(model), files)
    with torch.no_grad():
        for parameter in model.causal_lm.parameters():
            parameter.add_(float(parameter.requires_grad))
    after = published(model)
    assert after.keys() == files.keys()
    same = {name for name, tensor in files.items() if torch.equal(after[name], tensor)}
    assert same == {name for name in files if any(part in name for part in ("vis", "audio", "multi_modal", "mtp"))}


def published(model: TokenLogprobModel) -> dict[str, Tensor]:
    own = dict([*model.causal_lm.named_parameters(), *model.causal_lm.named_buffers()])
    stored = model.causal_lm.state_dict()
    return dict(model.as_in_files((name, tensor.detach().clone()) for name, tensor in own.items() if name in stored))


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_go_on_the_layers_that_text_passes(family: str, made: Made) -> None:
    lora = LoraSection(rank=2, alpha=4.0)
    model = TokenLogprobModel(add_adapter(load_causal_lm(made[family][0]), lora, seed=0), 8)
    of_rows(model).sum().backward()
    assert adapted_layers(model.causal_lm)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "alone" not in name])
def test_adapters_are_not_published_under_names_that_samplers_do_not_know(family: str, made: Made) -> None:
    model = add_adapter(load_causal_lm(made[family][0]), LoraSection(rank=2), seed=0)
    with pytest.raises(SettingsError, match=r"so samplers could not tell what an adapter belongs to: set learner\.lora\.publish=merged"):
        require_published_under_own_names(model, "learner.lora")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_can_be_a_critic_of_text(family: str, made: Made) -> None:
    critic = TokenValueModel(load_causal_lm(made[family][0]))
    assert critic(ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained).shape == ROWS.input_ids.shape
    assert not any("vision" in name for name, _ in critic.named_parameters())


def test_text_weights_that_are_missing_are_still_missed(tmp_path: Path) -> None:
    qwen_3_5(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if ".layers.1.mlp.up_proj" not in name}, file, {"format": "pt"})
    with pytest.raises(SettingsError, match=r"lacks weights of its architecture: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(tmp_path)


def test_weights_that_no_architecture_knows_are_still_refused(tmp_path: Path) -> None:
    gemma_3n(tmp_path)
    with_more(tmp_path, {"model.language_model.layers.9.odd.weight": torch.ones(2)})
    with pytest.raises(SettingsError, match=r"has weights that its architecture does not know: .*layers\.9\.odd\.weight"):
        load_causal_lm(tmp_path)
