"""What a model directory says about itself, read without loading weights: shape, parameters, tokenizer."""

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oprime.runtime.errors import UnusableInputError, did_you_mean
from oprime_cli.paths import is_local_model

HEADER_LIMIT = 100_000_000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
HUB_TIMEOUT_S = 10.0
AWAY = "it cannot be reached from here, or HF_HUB_OFFLINE is set, and the model was not fetched before"
NO_LINEAR_LAYERS = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of tensors with two sides that are embeddings, or the output head."""
OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}
"""What GPT-2, Bloom, MPT and others call in config.json what most call otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A causal language model as its config.json and weight files describe it."""

    parameters: int
    counted: bool
    """True when counted from the weight files, False when estimated from config.json."""
    hidden_size: int
    layers: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    max_positions: int
    """0 when config.json does not limit the length."""
    linear_sides: Mapping[str, int] = field(default_factory=dict[str, int])
    """Inputs and outputs of all linear layers but the output head, added up by the last part of the layers' names."""
    dtypes: frozenset[str] = frozenset()
    """Types of the weights in the files, as safetensors names them; empty where there are none here."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the text model, as `read_config` gives it."""


def locate(model: str) -> Path:
    """The directory of a model: a local one, or its copy in the hub's cache (config and tokenizer are fetched if need be).

    Raises UnusableInputError, saying plainly what is missing.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if is_local_model(model):
        raise UnusableInputError(
            f"there is no model directory {model}{_near_directory(model)}: make one (oprime sft), download one, or name a hub id OWNER/NAME"
        )
    return from_hub(model, "config.json", "tokenizer_config.json", "tokenizer.json")


def from_hub(model: str, *files: str) -> Path:
    """The directory with files of a model in the hub's cache, fetched if need be. Raises UnusableInputError, for what is no directory
    here."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = [hf_hub_download(model, name, etag_timeout=HUB_TIMEOUT_S) for name in files]
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        said = AWAY if constants.HF_HUB_OFFLINE else str(error).strip().split("\n")[0]
        raise UnusableInputError(
            f"{model} is no directory here{_near_directory(model)}, and the model hub does not give it ({said}): "
            "check the name, or download it and give its directory"
        ) from error
    return Path(found[0]).parent


def _near_directory(model: str) -> str:
    """` (did you mean X?)`, where a directory of nearly that name lies beside it, or one of its name in another folder."""
    path = Path(model)
    try:
        near = path.parent.iterdir() if path.parent.is_dir() else path.parent.parent.glob(f"*/{path.name}")
        return did_you_mean(model, [str(one) for one in near if one.is_dir()])
    except OSError:
        return ""


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model, under the names that most have; of one that also takes images or sound, its text model's settings come
    first. Raises UnusableInputError."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnusableInputError(f"{directory} has no config.json, so it is no model directory") from error
    except (OSError, ValueError) as error:
        raise UnusableInputError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UnusableInputError(f"{path} holds no JSON object")
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    return text | {name: text[other] for name, others in OTHER_NAMES.items() for other in others if name not in text and other in text}


def facts(directory: Path) -> ModelFacts:
    """Shape and size of a model. Raises UnusableInputError when config.json lacks what every causal language model has."""
    config = read_config(directory)
    try:
        hidden, layers, heads = int(config["hidden_size"]), int(config["num_hidden_layers"]), _heads(config)
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableInputError(f"{directory / 'config.json'} lacks or misstates {error}: a causal language model is needed") from error
    counted = count_parameters(directory)
    return ModelFacts(
        parameters=counted or estimate_parameters(config),
        counted=counted > 0,
        hidden_size=hidden,
        layers=layers,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden // max(heads, 1)),
        vocabulary=vocabulary,
        max_positions=int(config.get("max_position_embeddings") or 0),
        linear_sides=_linear_sides(directory) or _estimated_sides(config),
        dtypes=frozenset(str(tensor["dtype"]) for path in directory.glob("*.safetensors") for tensor in _header(path).values()),
        config=config,
    )


def weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def count_parameters(directory: Path) -> int:
    """Parameters in the headers of all safetensors files; 0 when there are none."""
    return sum(math.prod(tensor["shape"]) for path in directory.glob("*.safetensors") for tensor in _header(path).values())


def _linear_sides(directory: Path) -> dict[str, int]:
    sides: Counter[str] = Counter()
    for path in directory.glob("*.safetensors"):
        for name, tensor in _header(path).items():
            shape: list[int] = tensor["shape"]
            layer, _, kind = name.rpartition(".")
            # The experts of a layer are no linear layers in memory.
            if kind == "weight" and len(shape) == 2 and not any(part in layer for part in (*NO_LINEAR_LAYERS, ".experts.")):
                sides[layer.rpartition(".")[2]] += sum(shape)
    return dict(sides)


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Type and shape of each tensor of a safetensors file."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, HEADER_LIMIT)))
        found = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        return {name: {"dtype": tensor["dtype"], "shape": [int(side) for side in tensor["shape"]]} for name, tensor in found.items()}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UnusableInputError(f"{path} is no safetensors file, or is cut short: copy the model again") from error


def _estimated_sides(config: dict[str, Any]) -> dict[str, int]:
    """As of `estimate_parameters`."""
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], _heads(config)
    head_size = config.get("head_dim") or hidden // max(heads, 1)
    key_value = (config.get("num_key_value_heads") or heads) * head_size
    inner = _inner_size(config)
    sides: dict[str, int] = dict.fromkeys(("q_proj", "o_proj"), layers * (hidden + heads * head_size))
    sides |= dict.fromkeys(("k_proj", "v_proj"), layers * (hidden + key_value))
    sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), layers * (hidden + inner))
    return sides


def estimate_parameters(config: dict[str, Any]) -> int:
    """Parameters of a Llama-like decoder: embeddings, attention with grouped heads, gated feed-forward, norms."""
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], _heads(config)
    head_size = config.get("head_dim") or hidden // max(heads, 1)
    key_value = (config.get("num_key_value_heads") or heads) * head_size
    attention = 2 * hidden * heads * head_size + 2 * hidden * key_value
    feed_forward = 3 * hidden * _inner_size(config)
    tables = 1 if config.get("tie_word_embeddings", False) else 2
    return layers * (attention + feed_forward + 2 * hidden) + tables * config["vocab_size"] * hidden + hidden


def _heads(config: dict[str, Any]) -> int:
    """Of attention; a model of states alone (Mamba) has none. Raises KeyError."""
    return int(config.get("num_attention_heads", 0) if "state_size" in config else config["num_attention_heads"])


def _inner_size(config: dict[str, Any]) -> int:
    """Of a feed-forward layer; where each layer has its own (Gemma 3n), the mean."""
    size = config.get("intermediate_size") or 4 * config["hidden_size"]
    return sum(size) // len(size) if isinstance(size, list) else int(size)


def has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").exists() or (directory / "chat_template.json").exists():
        return True
    return bool(_json(directory / "tokenizer_config.json").get("chat_template"))


def has_tokenizer(directory: Path) -> bool:
    return any((directory / name).exists() for name in TOKENIZER_FILES)


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two directories hold tokenizers that give every text the same ids: same vocabulary, merges and added tokens."""
    return _tokenizer_identity(one) == _tokenizer_identity(other)


def _tokenizer_identity(directory: Path) -> dict[str, Any]:
    whole = _json(directory / "tokenizer.json")
    if whole:
        # Truncation, padding and post-processing do not change which id a piece of text gets.
        wanted = ("model", "added_tokens", "normalizer", "pre_tokenizer")
        return {name: whole.get(name) for name in wanted}
    names = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names if (directory / name).exists()}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
