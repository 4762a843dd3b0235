"""A small model directory and a whole run's settings, written by hand."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oprime_cli.overrides import apply_override
from oprime_cli.run_config import RunConfig

MODEL = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 54,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
TENSORS = {"model.embed_tokens.weight": [54, 64], "lm_head.weight": [54, 64], "model.norm.weight": [64]}
TOKENIZER = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "<eos>": 1, "a": 2}, "unk_token": "<pad>"},
    "added_tokens": [],
}
# Many models' templates know no system role.
TEMPLATE = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0].content }}"
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "chat_template": TEMPLATE}


def write_model(directory: Path, *, tokenizer: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A model directory that is complete for everything that does not compute with it."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**MODEL, **changes}))
    write_safetensors(directory / "model.safetensors", TENSORS)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer or TOKENIZER))
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return directory


def write_safetensors(path: Path, tensors: dict[str, list[int]]) -> None:
    """Tensors of zeros in float32, with the header that names their shapes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def make_config(tmp_path: Path, model: Path) -> Callable[..., RunConfig]:
    """Settings that a plan accepts, changed by `key=value` texts."""

    def make(*overrides: str) -> RunConfig:
        document: dict[str, Any] = {
            "run": {"name": "one", "directory": str(tmp_path / "runs"), "steps": 4},
            "model": {"path": str(model)},
            "tasks": {"source": "chain"},
            "sampling": {"group_size": 4, "max_prompt_tokens": 32, "max_response_tokens": 32},
            "coordinator": {"groups_per_batch": 8},
        }
        for text in overrides:
            apply_override(document, text)
        return RunConfig.from_document(document, origin="test.toml")

    return make
