"""Weights under the names, and in the pieces, that a model's files have.

transformers holds some architectures otherwise than their files do: the experts of a layer as one tensor, parts under other names. Other
parts it leaves in the files: layers that predict further tokens, what reads images where only text is trained. Samplers know the files'
form, so that is what is published.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BESIDE_TEXT = re.compile(r"(model\.)?(visual|vision_tower|audio_tower|embed_vision|embed_audio|multi_modal_projector)\.")
"""Names, in files, of what a model for images or sound has besides its text model."""
_NOTHING = torch.empty(1, 1, device="meta")
"""Stands for a weight of which the name alone matters."""


def is_held_otherwise(model: "PreTrainedModel") -> bool:
    from transformers.conversion_mapping import get_model_conversion_mapping

    return bool(get_model_conversion_mapping(model, add_legacy=False))


def whole_as_in_files(model: "PreTrainedModel", weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """All `weights` of `model`, by their names in memory, under each name that its files have.

    Where the model ties two weights (head and embedding), its files may have them under both names, and samplers expect what the files had.
    """
    second = _second_names(model)
    for name, tensor in weights:
        yield from as_in_files(model, [(name, tensor)])
        for other in second.get(name, ()):
            yield from as_in_files(model, [(other, tensor)])


def as_in_files(model: "PreTrainedModel", weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`weights` by their names in memory, one after the other, as `model`'s files have them."""
    if not is_held_otherwise(model):
        yield from weights
        return
    from transformers.core_model_loading import revert_weight_conversion

    for name, tensor in weights:
        for file_name, piece in revert_weight_conversion(model, {name: tensor}).items():
            yield file_name, piece.contiguous()


def left_in_files(model: "PreTrainedModel") -> Iterator[tuple[str, Tensor]]:
    """The weights in the files that `model` was loaded from that it does not hold, because text does not need them.

    Raises SettingsError where the files are gone.
    """
    from safetensors import safe_open

    ignored = re.compile("|".join(_ignored(model)) or r"(?!)")
    held: set[str] | None = None
    for file in _files_of(model.name_or_path or ""):
        try:
            with safe_open(file, framework="pt") as opened:
                wanted = [name for name in opened.keys() if ignored.search(name) or is_not_of_text(name)]  # noqa: SIM118 - no mapping
                if wanted:
                    held = _names_of(model) if held is None else held
                yield from ((name, opened.get_tensor(name)) for name in wanted if name not in (held or ()))
        except OSError as error:
            raise SettingsError(f"{file}, from which the model was loaded, cannot be read any more: {error}; put it back") from error


def is_not_of_text(name: str) -> bool:
    """Whether a weight, by its name in the files of a model for images or sound, is of no use for text."""
    return bool(_BESIDE_TEXT.match(name))


def _ignored(model: "PreTrainedModel") -> list[str]:
    """Patterns of names that transformers passes over when it reads a model's files."""
    from transformers import PreTrainedModel

    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    return [pattern for part in parts for pattern in part._keys_to_ignore_on_load_unexpected or ()]


def _second_names(model: "PreTrainedModel") -> dict[str, list[str]]:
    """Of tied weights, the names besides the first that the files have, by the first name. Names in memory."""
    first: dict[int, str] = {}
    second: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            second.setdefault(known, []).append(name)
    if not second:
        return {}
    found = _shapes_in_files(_files_of(model.name_or_path or ""))
    return {
        name: [other for other in others if all(file_name in found for file_name, _ in as_in_files(model, [(other, _NOTHING)]))]
        for name, others in second.items()
    }


def _names_of(model: "PreTrainedModel") -> set[str]:
    """Names in files of all that the model holds, the second names of tied weights too."""
    every = ((name, torch.empty(tensor.shape, device="meta")) for name, tensor in model.state_dict().items())
    return {name for name, _ in as_in_files(model, every)}


def _files_of(path: str) -> list[Path]:
    """Safetensors files of a model given as a directory, or as a hub id that was loaded; none for one that is new."""
    from huggingface_hub import try_to_load_from_cache

    if not path:
        return []
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.safetensors"))
    config = try_to_load_from_cache(path, "config.json")
    return sorted(Path(config).parent.glob("*.safetensors")) if isinstance(config, str) else []


def require_form_of_files(model: "PreTrainedModel", path: str | Path) -> None:
    """Raise SettingsError unless the weights can be given back, tensor by tensor, as the files in directory `path` have them."""
    if not is_held_otherwise(model):
        return
    found = _shapes_in_files(sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [])
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


def _shapes_in_files(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
    return shapes
