"""Prompts and responses as tokens, laid out as sampling lays them out: the prompt through the chat template, the text, an end token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oprime.core.types import ChatMessage, TokenIds
from oprime.lm.tokenizers import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedResponse:
    prompt_ids: TokenIds
    response_ids: TokenIds
    """The text's, then one end token."""
    ends: tuple[int, ...]
    """Of each token of the response, how many characters of the text there are up to its end."""

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def encode_response(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage], response: str, end_id: int) -> EncodedResponse:
    """Raises UnusableInputError for a prompt that the chat template refuses."""
    prompt = render_prompt(tokenizer, messages)
    encoded: Any = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
    return EncodedResponse(
        prompt_ids=np.asarray(prompt, dtype=np.int32),
        response_ids=np.asarray([*encoded["input_ids"], end_id], dtype=np.int32),
        ends=(*(int(end) for _, end in encoded["offset_mapping"]), len(response)),
    )
