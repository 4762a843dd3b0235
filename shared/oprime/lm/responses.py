"""Prompts and responses as tokens, laid out as sampling lays them out: the prompt through the chat template, the text, an end token.

Names of special tokens in a text are text, unless asked otherwise: what somebody writes cannot end a turn or begin one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from oprime.core.types import ChatMessage, TokenIds
from oprime.lm.tokenizers import encode, plain_backend, render_prompt, render_text
from oprime.runtime.errors import UnusableInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
Span = tuple[int, int]

FIRST_STAND_IN = 0xF0000
"""Code points without meaning (Unicode's private use area) take the place of special tokens' names while a template is applied."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedResponse:
    prompt_ids: TokenIds
    response_ids: TokenIds
    """The text's, then one end token."""
    spans: tuple[Span, ...]
    """Half-open character range of each token of the response; that of the end token is empty."""

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


class ResponseEncoder:
    """Not for several threads at once: the tokenizers library changes its state while it reads."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_id: int) -> None:
        self.tokenizer = tokenizer
        self.end_id = end_id
        self._backend = plain_backend(tokenizer)

    def encode(self, messages: Sequence[ChatMessage], responses: Sequence[str]) -> list[EncodedResponse]:
        """Each response after the same conversation. Raises UnusableInputError for texts that cannot be tokenised."""
        prompt = np.asarray(self.prompt(messages), dtype=np.int32)
        found = [self.response(response) for response in responses]
        return [EncodedResponse(prompt_ids=prompt, response_ids=np.asarray(ids, dtype=np.int32), spans=spans) for ids, spans in found]

    def prompt(self, messages: Sequence[ChatMessage], *, special_tokens: bool = False) -> Ids:
        """A conversation up to where the answer begins. Raises UnusableInputError."""
        return tuple(self._rendered(messages) if special_tokens else self._plain_prompt(messages))

    def response(self, text: str, *, special_tokens: bool = False) -> tuple[Ids, tuple[Span, ...]]:
        """A response as the policy would have sampled it: the text, then the end token. Raises UnusableInputError."""
        ids, spans = self.text(text, special_tokens=special_tokens)
        return (*ids, self.end_id), (*spans, (len(text), len(text)))

    def text(self, text: str, *, special_tokens: bool) -> tuple[Ids, tuple[Span, ...]]:
        """The tokens of a text as it stands, and the character range of each. Raises UnusableInputError."""
        ids, spans = self._read(text, special_tokens=special_tokens)
        if not special_tokens and not self._special_ids.isdisjoint(ids):
            name = next(self.tokenizer.convert_ids_to_tokens(token) for token in ids if token in self._special_ids)
            raise UnusableInputError(
                f"the text holds {name!r}, which this tokenizer only knows as a special token: leave it out, or ask for special tokens"
            )
        return ids, spans

    def _read(self, text: str, *, special_tokens: bool) -> tuple[Ids, tuple[Span, ...]]:
        try:
            if self._backend is not None:
                found = encode(self._backend, text, special_tokens=special_tokens)
                return tuple(found.ids), tuple(found.offsets)
            encoded = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=not special_tokens, verbose=False
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            # The tokenizers library has no errors of its own: a word that the vocabulary lacks is a plain Exception.
            raise UnusableInputError(f"the text cannot be tokenised ({error}): write it in the vocabulary of the model") from error
        columns = cast(dict[str, Any], encoded)
        return tuple(columns["input_ids"]), tuple((int(start), int(end)) for start, end in columns["offset_mapping"])

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Without the token for unknown text, which any text may give."""
        unknown = cast("int | None", self.tokenizer.unk_token_id)
        return frozenset(self.tokenizer.all_special_ids) - ({unknown} if unknown is not None else set())

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of special tokens, the longest first."""
        return tuple(sorted(filter(None, map(str, self.tokenizer.all_special_tokens)), key=len, reverse=True))

    def _rendered(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        """`render_prompt`, in a third of its time where the tokenizer is a plain one."""
        if self._backend is None:
            return render_prompt(self.tokenizer, messages)
        ids, _ = self._read(render_text(self.tokenizer, messages, asks=True), special_tokens=not self.tokenizer.split_special_tokens)
        return ids or render_prompt(self.tokenizer, messages)

    def _plain_prompt(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        """Through the chat template, in which names of special tokens are its own; those in messages stay text."""
        if not any(name in message.content for message in messages for name in self._names):
            return self._rendered(messages)
        name_of = {chr(FIRST_STAND_IN + place): name for place, name in enumerate(self._names)}
        stand_in_of = {name: stand_in for stand_in, name in name_of.items()}
        any_name, any_stand_in = re.compile("|".join(map(re.escape, self._names))), re.compile(f"([{''.join(name_of)}])")
        hidden = tuple(replace(one, content=any_name.sub(lambda found: stand_in_of[found[0]], one.content)) for one in messages)
        parts = any_stand_in.split(render_text(self.tokenizer, hidden, asks=True))
        encoded = (self.text(name_of.get(part, part), special_tokens=part not in name_of)[0] for part in parts if part)
        return [token for ids in encoded for token in ids]
