"""A model loads with every weight, or not at all and with a sentence that says why."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config

from oprime.lm.models import count_parameters, load_causal_lm, random_causal_lm
from oprime.runtime.errors import SettingsError

SIZES: dict[str, Any] = {
    "vocab_size": 54,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIG = Qwen2Config(**SIZES, attention_dropout=0.25)
# Embeddings and head 2 * 54 * 64; a layer has 4 * 64 * 64 + 3 * 64 (biases) + 3 * 64 * 96 + 2 * 64 (norms); a last norm 64.
PARAMETERS = 2 * 54 * 64 + 2 * (4 * 64 * 64 + 3 * 64 + 3 * 64 * 96 + 2 * 64) + 64


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    random_causal_lm(CONFIG, 3).save_pretrained(tmp_path)
    return tmp_path


def change_weights(directory: Path, **changes: Tensor | None) -> None:
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def change_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def test_a_model_comes_back_as_it_was_saved_in_float32(directory: Path) -> None:
    model = load_causal_lm(directory)
    original = random_causal_lm(CONFIG, 3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    assert not model.training
    assert count_parameters(model) == PARAMETERS


def test_a_scoring_copy_may_be_held_in_bfloat16(directory: Path) -> None:
    model = load_causal_lm(directory, dtype="bfloat16", attention="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_bfloat16_files_become_float32_master_weights(directory: Path) -> None:
    random_causal_lm(CONFIG, 3).bfloat16().save_pretrained(directory)
    assert {parameter.dtype for parameter in load_causal_lm(directory).parameters()} == {torch.float32}


def test_gradient_checkpointing_is_switched_on(directory: Path) -> None:
    assert load_causal_lm(directory, gradient_checkpointing=True).is_gradient_checkpointing
    assert not load_causal_lm(directory).is_gradient_checkpointing


def test_tied_weights_load_and_count_once(tmp_path: Path) -> None:
    random_causal_lm(Qwen2Config(**SIZES, tie_word_embeddings=True), 3).save_pretrained(tmp_path)
    assert count_parameters(load_causal_lm(tmp_path)) == PARAMETERS - 54 * 64


def test_only_what_can_be_trained_is_counted_on_request() -> None:
    model = random_causal_lm(CONFIG, 0)
    model.get_input_embeddings().requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == PARAMETERS - 54 * 64


def test_a_seed_decides_the_weights_and_the_global_random_state_stays() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (random_causal_lm(CONFIG, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent is not a directory"):
        load_causal_lm(tmp_path / "absent")


def test_a_directory_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no config\.json"):
        load_causal_lm(tmp_path)


def test_a_config_that_is_no_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match="neither a readable model directory nor a hub id"):
        load_causal_lm(tmp_path)


def test_a_model_of_another_kind_is_refused(directory: Path) -> None:
    change_config(directory, architectures=["Qwen2ForSequenceClassification"])
    with pytest.raises(SettingsError, match=r"is Qwen2ForSequenceClassification, not a causal language model.*Qwen2ForCausalLM"):
        load_causal_lm(directory)


def test_a_missing_weight_is_refused_rather_than_drawn_at_random(directory: Path) -> None:
    change_weights(directory, model__norm__weight=None)
    with pytest.raises(SettingsError, match=r"lacks weights of its architecture: model\.norm\.weight"):
        load_causal_lm(directory)


def test_an_unknown_weight_is_refused(directory: Path) -> None:
    change_weights(directory, model__extra=torch.zeros(2))
    with pytest.raises(SettingsError, match=r"does not know: model\.extra"):
        load_causal_lm(directory)


def test_a_weight_of_another_shape_is_refused(directory: Path) -> None:
    change_weights(directory, model__norm__weight=torch.zeros(2))
    with pytest.raises(SettingsError, match=r"cannot be loaded|another shape"):
        load_causal_lm(directory)


def test_a_directory_without_weights_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_causal_lm(directory)


def test_a_torn_file_is_refused(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SettingsError, match=r"damaged safetensors|cannot be loaded"):
        load_causal_lm(directory)


def test_pickled_weights_are_refused(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_causal_lm(directory)


def test_importing_the_loader_does_not_import_transformers() -> None:
    code = "import sys, oprime.lm.models; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
