"""A trained model's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oprime.lm.file_names import as_in_files, left_in_files
from oprime.lm.models import config_of_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a training begins with."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: tuple[int, ...]
    """Tokens at which the result stops, the first of which a response ends with."""

    def write(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """The model in Hugging Face form, with float32 `weights` in place of its own, and what it left in the files that it is from."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.model.config.use_cache = True
        self._end_responses()
        config: Any = config_of_files(self.model)
        rest = dict(left_in_files(self.model))
        if rest:
            self._write_all({**dict(as_in_files(self.model, weights.items())), **rest}, directory)
        else:
            self.model.save_pretrained(str(directory), state_dict=dict(weights))
        # Not the type that the model computes in.
        config.dtype = "float32"
        config.save_pretrained(str(directory))
        self.tokenizer.save_pretrained(str(directory))

    def _write_all(self, tensors: dict[str, Tensor], directory: Path) -> None:
        from huggingface_hub import save_torch_state_dict

        directory.mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(tensors, directory, metadata={"format": "pt"})
        if self.model.generation_config is not None:
            self.model.generation_config.save_pretrained(str(directory))

    def _end_responses(self) -> None:
        """Let samplers stop at every end token that the model learnt."""
        generation: Any = self.model.generation_config
        if generation is None:
            return
        known = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
        if not set(self.end_ids) <= set(known):
            generation.eos_token_id = [*self.end_ids, *(token for token in known if token is not None and token not in self.end_ids)]
