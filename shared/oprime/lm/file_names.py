"""Weights under the names, and in the pieces, that a model's files have.

transformers holds some architectures otherwise than their files do: the experts of a layer as one tensor, parts under other names.
Samplers know the files' form, so that is what is published.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_held_otherwise(model: "PreTrainedModel") -> bool:
    from transformers.conversion_mapping import get_model_conversion_mapping

    return bool(get_model_conversion_mapping(model, add_legacy=False))


def as_in_files(model: "PreTrainedModel", weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`weights` by their names in memory, one after the other, as `model`'s files have them."""
    if not is_held_otherwise(model):
        yield from weights
        return
    from transformers.core_model_loading import revert_weight_conversion

    for name, tensor in weights:
        for file_name, piece in revert_weight_conversion(model, {name: tensor}).items():
            yield file_name, piece.contiguous()


def require_form_of_files(model: "PreTrainedModel", path: str | Path) -> None:
    """Raise SettingsError unless the weights can be given back, tensor by tensor, as the files in directory `path` have them."""
    if not is_held_otherwise(model):
        return
    found = _shapes_in_files(Path(path))
    given = {name: tuple(tensor.shape) for name, tensor in as_in_files(model, _shapes_of(model))}
    odd = sorted(name for name, shape in given.items() if found.get(name, shape) != shape or (found and name not in found))
    if odd:
        raise SettingsError(
            f"model {path} ({type(model).__name__}) is held in memory in another form than in its files, and {odd[0]} would not be "
            f"published as the files have it ({found.get(odd[0], 'not there')} is {given[odd[0]]}), so samplers could not follow: choose "
            "another model"
        )


def _shapes_of(model: "PreTrainedModel") -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, torch.empty(parameter.shape, device="meta")


def _shapes_in_files(directory: Path) -> dict[str, tuple[int, ...]]:
    """Nothing for a hub id."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")) if directory.is_dir() else ():
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
    return shapes
