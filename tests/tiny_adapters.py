"""Tiny adapters, in memory and as files."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from oprime.lm.lora import ADAPTER_WEIGHTS, adapter_files, in_adapter_file


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """What an optimizer would update, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def moved(model: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """The same with adapters that do something."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    return model


def write_adapter(model: PreTrainedModel, base: Path, directory: Path) -> Path:
    """The adapters of a model, as they are published; `base` is the directory of the model itself."""
    directory.mkdir()
    tensors = {name: tensor.detach().contiguous() for name, tensor in in_adapter_file(trained(model).items())}
    save_file(tensors, directory / ADAPTER_WEIGHTS)
    for name, content in adapter_files(model, base, base).items():
        (directory / name).write_bytes(content)
    return directory
