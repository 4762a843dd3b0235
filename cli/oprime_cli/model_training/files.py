"""A trained model's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a training begins with."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: tuple[int, ...]

    def write(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """The model in Hugging Face form, with float32 `weights` in place of its own."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        config: Any = self.model.config
        config.use_cache = True
        self.model.save_pretrained(str(directory), state_dict=dict(weights))
        # It has written the type that the model computes in.
        config.dtype = "float32"
        config.save_pretrained(str(directory))
        self.tokenizer.save_pretrained(str(directory))
