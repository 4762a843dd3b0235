"""LoRA with PEFT: adapters on a model's linear layers, merged weights, adapters as files. The only module that imports peft.

In memory an adapted layer `X` has the weights `X.base_layer.weight`, frozen, and `X.lora_A.default.weight` and `X.lora_B.default.weight`;
files of adapters have PEFT's names `base_model.model.X.lora_A.weight`, and merged weights the name `X.weight` that the model had before.
"""

import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from oprime.lm.file_names import as_in_files
from oprime.lm.models import Dtype, beside_text, text_config
from oprime.runtime.errors import SettingsError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"
"""Beside an adapter: which model it belongs to, by path and fingerprint."""

_NAME = "default"
_PREFIX = "base_model.model."
_BASE, _A, _B = ".base_layer.", f".lora_A.{_NAME}.", f".lora_B.{_NAME}."


def twin(model: "PreTrainedModel") -> "PreTrainedModel":
    """Another model with the very weights of `model`, in the same memory, and modules of its own: adapters on one are none on the other."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def base_dtype(lora: LoraSection, dtype: Dtype) -> Dtype:
    """What a model that will be trained is loaded in: its weights are masters, unless adapters are trained in their place."""
    return dtype if lora.rank else "float32"


def add_adapter(model: "PreTrainedModel", lora: LoraSection, *, seed: int, setting: str = "lora") -> "PreTrainedModel":
    """Put adapters on the linear layers of `model`, in place, and freeze all else. B is 0: the model computes what it did.

    A is drawn from `seed`; the global random state is left alone. Raises SettingsError, naming `setting`, for targets that are no linear
    layers.
    """
    from peft import LoraConfig

    _require_linear(model, lora, setting)
    return _injected(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.rank,
            lora_alpha=cast("int", lora.alpha),
            use_rslora=lora.rslora,
            target_modules=list(lora.targets) or "all-linear",
            exclude_modules=[name for name, module in beside_text(model) if _is_linear(module)] or None,
            lora_dropout=0.0,
            bias="none",
        ),
        seed,
    )


def _injected(model: "PreTrainedModel", config: "LoraConfig", seed: int) -> "PreTrainedModel":
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        # It notes which layers hold their weight transposed, as it should.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    return model


def _require_linear(model: "PreTrainedModel", lora: LoraSection, setting: str) -> None:
    passed = {name for name, _ in beside_text(model)}
    linear = {name: module for name, module in model.named_modules() if _is_linear(module) and name not in passed}
    head = model.get_output_embeddings()
    for target in lora.targets:
        found = [module for name, module in linear.items() if name == target or name.endswith(f".{target}")]
        if not found:
            known = ", ".join(sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head}))
            raise SettingsError(f"{setting}.targets names {target}, which is no linear layer of {type(model).__name__}: it has {known}")
        if head in found:
            raise SettingsError(
                f"{setting}.targets names {target}, the output head of {type(model).__name__}, whose logits are computed in pieces of its "
                "weight: leave it out"
            )


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of a model that have an adapter, by the names that they had before; none of a model without."""
    if not any(_A in name for name, _ in model.named_parameters()):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merged(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`weights` of `model`, in its own order, as those of one without adapters: W + scale B A under the name of W.

    Computed in float32 and rounded to the type of W, or of the adapters where theirs is the wider; no given tensor is changed.
    """
    layers = adapted_layers(model)
    held: dict[str, Tensor] = {}
    for name, tensor in weights:
        layer = next((name.partition(part)[0] for part in (_A, _B, f"{_BASE}weight") if part in name), None)
        if layer is None:
            yield name.replace(_BASE, "."), tensor
            continue
        held[name.removeprefix(layer).strip(".").partition(".")[0]] = tensor
        if len(held) == 3:
            yield f"{layer}.weight", _sum(layers[layer], held["base_layer"], held["lora_A"], held["lora_B"])
            held = {}


def _sum(layer: Any, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    wide_a, wide_b = a.detach().float(), b.detach().float()
    left, right = (wide_a.T, wide_b.T) if layer.fan_in_fan_out else (wide_b, wide_a)
    found = torch.addmm(weight.detach().float(), left, right, alpha=layer.scaling[_NAME])
    return found.to(torch.promote_types(weight.dtype, b.dtype))


# Adapters as files


def in_adapter_file(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights of adapters, by their names in memory, under those that PEFT's files have."""
    return ((_PREFIX + name.replace(f".{_NAME}.", "."), tensor) for name, tensor in weights)


def in_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `in_adapter_file`."""
    return {f"{name.removeprefix(_PREFIX).removesuffix('.weight')}.{_NAME}.weight": tensor for name, tensor in weights.items()}


def adapter_files(model: "PreTrainedModel", base: Path, path: str | Path) -> dict[str, bytes]:
    """What goes beside the weights of an adapter on the model in directory `base`: PEFT's config, and which model that is.

    `path` is what the model is called: a directory, or a hub id.
    """
    name = str(Path(path).absolute() if Path(path).is_dir() else path)
    return {
        ADAPTER_CONFIG: _config_file(model, name),
        BASE: json.dumps({"path": name, "fingerprint": fingerprint(base)}, indent=1).encode(),
    }


def _config_file(model: "PreTrainedModel", base: str) -> bytes:
    found = dict(cast("Any", model).peft_config[_NAME].to_dict()) | {"base_model_name_or_path": base, "inference_mode": True}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}
    return json.dumps(plain, indent=2, sort_keys=True).encode()


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER_CONFIG).is_file()


def load_adapter(model: "PreTrainedModel", directory: Path) -> "PreTrainedModel":
    """Put the adapter in `directory`, in PEFT's form, on `model`, in place. Raises WeightsRefusedError where it does not fit."""
    from peft import LoraConfig

    try:
        _injected(model, cast("LoraConfig", LoraConfig.from_pretrained(str(directory))), 0)
        given = read_tensors(directory / ADAPTER_WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsRefusedError(f"adapter {directory} cannot be put on {type(model).__name__}: {error}") from error
    wanted, found = _shapes(model), {name: tuple(tensor.shape) for name, tensor in given.items()}
    odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if odd:
        raise WeightsRefusedError(
            f"adapter {directory} does not fit {type(model).__name__} with the rank and targets of its {ADAPTER_CONFIG}: {odd[0]} should "
            f"be {wanted.get(odd[0], 'absent')} and is {found.get(odd[0], 'absent')}"
        )
    model.load_state_dict(in_memory(given), strict=False)
    return model


def adapter_shapes(directory: Path, lora: LoraSection, *, trust_remote_code: bool = False) -> dict[str, tuple[int, ...]]:
    """Names, as PEFT's files have them, and shapes of the adapters of the model in `directory`, of which only the config is read."""
    return _shapes(_without_weights(directory, lora, trust_remote_code=trust_remote_code))


def write_empty_adapter(target: Path, base: Path, lora: LoraSection, *, trust_remote_code: bool = False) -> None:
    """Write an adapter of the model in `base` that changes nothing, without knowing which model that is, into directory `target`."""
    from safetensors.torch import save_file

    model = _without_weights(base, lora, trust_remote_code=trust_remote_code)
    save_file({name: torch.zeros(shape) for name, shape in _shapes(model).items()}, target / ADAPTER_WEIGHTS)
    (target / ADAPTER_CONFIG).write_bytes(_config_file(model, str(base)))


def _without_weights(directory: Path, lora: LoraSection, *, trust_remote_code: bool) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(directory), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text_config(config), trust_remote_code=trust_remote_code)
    return add_adapter(model, lora, seed=0, setting="learner.lora")


def _shapes(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    adapters = ((name, parameter) for name, parameter in model.named_parameters() if _A in name or _B in name)
    return {name: tuple(tensor.shape) for name, tensor in in_adapter_file(adapters)}


def require_published_under_own_names(model: "PreTrainedModel", setting: str) -> None:
    """Raise SettingsError where a sampler would know an adapted layer by another name than PEFT does."""
    for name in adapted_layers(model):
        known = [found for found, _ in as_in_files(model, [(f"{name}.weight", torch.empty(1, 1, device="meta"))])]
        if known != [f"{name}.weight"]:
            raise SettingsError(
                f'{setting}.publish = "adapter" with {type(model).__name__}, which has {name} in memory and {", ".join(known)} in its '
                f"files, so samplers could not tell what an adapter belongs to: set {setting}.publish=merged"
            )


# Which model an adapter belongs to


def fingerprint(directory: Path) -> str:
    """xxh3-64 of the weights of a model's directory, however they are spread over files: 16 hex digits. Reads all of them."""
    digest = xxhash.xxh3_64()
    places: dict[str, Path] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    for name, file in sorted(places.items()):
        with safe_open(file, framework="pt") as opened:
            tensor = opened.get_tensor(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_base(directory: Path, found: str, base: Path) -> None:
    """Raise WeightsRefusedError unless the adapter in `directory` belongs to the model in `base`, whose fingerprint is `found`."""
    try:
        wanted = json.loads((directory / BASE).read_text(encoding="utf-8"))
        path, known = wanted["path"], wanted["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsRefusedError(f"{directory / BASE} cannot be read: {error!r}; publish the adapter again") from error
    if known != found:
        raise WeightsRefusedError(
            f"adapter {directory} belongs to {path} (fingerprint {known}), but the model here is {base} (fingerprint {found}): start from "
            "the model that the trainer starts from"
        )


def read_tensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)
