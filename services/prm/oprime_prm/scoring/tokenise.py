"""From the texts and tokens of a score request to the PRM's tokens. Pure but for the tokenizer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import render_prompt, render_text
from oprime.runtime.errors import UnusableInputError

Ids = tuple[int, ...]
Span = tuple[int, int]

FIRST_STAND_IN = 0xF0000
"""Code points without meaning (Unicode's private use area) take the place of special tokens' names while a template is applied."""


class Truncation(StrEnum):
    """What becomes of an input that is too long."""

    ERROR = "error"
    LEFT = "left"
    """The beginning of the prompt is left out."""
    RIGHT = "right"
    """The end of the response is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedInput:
    """Tokens of one prompt and response."""

    prompt_ids: Ids
    response_ids: Ids
    spans: tuple[Span, ...] = ()
    """Half-open character range of each response token; empty for token inputs."""
    dropped_prompt: int = 0
    """Tokens that the truncation left out."""
    dropped_response: int = 0
    trailing: int = 0
    """Tokens behind the end token of a text, which are not scored."""


class Tokeniser:
    """Not for several threads at once: the tokenizers library changes its state while it reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_id: int, longest: int) -> None:
        self._tokenizer = tokenizer
        self._end_id = end_id
        self._longest = longest

    def prompt(self, messages: tuple[ChatMessage, ...], *, special_tokens: bool = False) -> Ids:
        """A conversation up to where the answer begins. Raises UnusableInputError."""
        return tuple(render_prompt(self._tokenizer, messages) if special_tokens else self._plain_prompt(messages))

    def answer(self, prompt: Ids, response: str, *, special_tokens: bool = False) -> TokenisedInput:
        """A response as the policy would have sampled it: the text, then the end token. Raises UnusableInputError."""
        ids, spans = self._encode(response, special_tokens=special_tokens)
        end = (len(response), len(response))
        return TokenisedInput(prompt_ids=prompt, response_ids=(*ids, self._end_id), spans=(*spans, end))

    def text(self, prompt: str, response: str) -> TokenisedInput:
        """A text that a chat template has written already. Raises UnusableInputError."""
        if not prompt:
            prompt, response = self._parted(response)
        scored = self._until_end(response)
        ids, spans = self._encode(scored, special_tokens=True)
        trailing = len(self._encode(response[len(scored) :], special_tokens=True)[0])
        if prompt:
            prompt_ids, _ = self._encode(prompt, special_tokens=True)
        else:
            prompt_ids, ids, spans = ids[:1], ids[1:], spans[1:]
        return TokenisedInput(prompt_ids=prompt_ids, response_ids=ids, spans=spans, trailing=trailing)

    def fitted(self, item: TokenisedInput, truncation: Truncation = Truncation.ERROR, most: int = 0) -> TokenisedInput:
        """The input within the model's context and `most` tokens. Raises UnusableInputError where that cannot be."""
        self._check_ids(item)
        limit = min(most or self._longest, self._longest)
        excess = len(item.prompt_ids) + len(item.response_ids) - limit
        if excess <= 0:
            return item
        if truncation is Truncation.LEFT and excess < len(item.prompt_ids):
            return replace(item, prompt_ids=item.prompt_ids[excess:], dropped_prompt=excess)
        if truncation is Truncation.RIGHT and excess < len(item.response_ids):
            return replace(item, response_ids=item.response_ids[:-excess], spans=item.spans[:-excess], dropped_response=excess)
        whose = "the model's" if limit == self._longest else "the request's"
        raise UnusableInputError(
            f"{len(item.prompt_ids)} prompt + {len(item.response_ids)} response tokens exceed {whose} {limit}: shorten the text"
            + _why_not(truncation)
        )

    def has_end_token(self, item: TokenisedInput) -> bool:
        return item.response_ids[-1:] in ((self._end_id,), (self._tokenizer.eos_token_id,))

    def _check_ids(self, item: TokenisedInput) -> None:
        if not item.prompt_ids or not item.response_ids:
            raise UnusableInputError("prompt and response need at least one token each: the prompt predicts the response's first token")
        vocabulary = len(self._tokenizer)
        wrong = next((token for token in (*item.prompt_ids, *item.response_ids) if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise UnusableInputError(f"token id {wrong} is not in the vocabulary of {vocabulary}: use the PRM's own tokenizer")

    def _encode(self, text: str, *, special_tokens: bool) -> tuple[Ids, tuple[Span, ...]]:
        try:
            encoded = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=not special_tokens, verbose=False
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            # The tokenizers library has no errors of its own: a word that the vocabulary lacks is a plain Exception.
            raise UnusableInputError(f"the text cannot be tokenised ({error}): write it in the vocabulary of the model") from error
        columns = cast(dict[str, Any], encoded)
        ids = tuple(columns["input_ids"])
        if not special_tokens and not self._special_ids.isdisjoint(ids):
            name = next(self._tokenizer.convert_ids_to_tokens(token) for token in ids if token in self._special_ids)
            raise UnusableInputError(
                f"the text holds {name!r}, which this tokenizer only knows as a special token: leave it out, or ask for special tokens"
            )
        return ids, tuple((int(start), int(end)) for start, end in columns["offset_mapping"])

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Without the token for unknown text, which any text may give."""
        unknown = cast("int | None", self._tokenizer.unk_token_id)
        return frozenset(self._tokenizer.all_special_ids) - ({unknown} if unknown is not None else set())

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of special tokens, the longest first."""
        return tuple(sorted(filter(None, map(str, self._tokenizer.all_special_tokens)), key=len, reverse=True))

    def _plain_prompt(self, messages: tuple[ChatMessage, ...]) -> Sequence[int]:
        """Through the chat template, in which names of special tokens are its own; those in messages stay text."""
        if not any(name in message.content for message in messages for name in self._names):
            return render_prompt(self._tokenizer, messages)
        name_of = {chr(FIRST_STAND_IN + place): name for place, name in enumerate(self._names)}
        stand_in_of = {name: stand_in for stand_in, name in name_of.items()}
        any_name, any_stand_in = re.compile("|".join(map(re.escape, self._names))), re.compile(f"([{''.join(name_of)}])")
        hidden = tuple(replace(one, content=any_name.sub(lambda found: stand_in_of[found[0]], one.content)) for one in messages)
        parts = any_stand_in.split(render_text(self._tokenizer, hidden, asks=True))
        encoded = (self._encode(name_of.get(part, part), special_tokens=part not in name_of)[0] for part in parts if part)
        return [token for ids in encoded for token in ids]

    def _parted(self, text: str) -> tuple[str, str]:
        """What stands before the response and the response, where the text has the template's generation prompt."""
        before, mark, response = text.rpartition(self._generation_prompt) if self._generation_prompt else ("", "", text)
        return (before + mark, response) if mark else ("", text)

    @cached_property
    def _generation_prompt(self) -> str:
        """What the chat template writes where the assistant's turn begins; empty where it writes nothing, or where there is none."""
        question = (ChatMessage(role="user", content="1"),)
        try:
            closed, open_ = (render_text(self._tokenizer, question, asks=asks) for asks in (False, True))
        except Exception:  # noqa: BLE001 - without a template, or with one that wants other words, texts have no such mark
            return ""
        return open_.removeprefix(closed) if open_.startswith(closed) else ""

    def _until_end(self, text: str) -> str:
        """The text without white space behind its last end token."""
        end = str(self._tokenizer.convert_ids_to_tokens(self._end_id))
        kept = text.rstrip()
        return kept if kept.endswith(end) else text


def _why_not(truncation: Truncation) -> str:
    match truncation:
        case Truncation.ERROR:
            return ", or ask for truncation"
        case Truncation.LEFT:
            return ": the response alone is too long, and truncation on the left leaves out the prompt's beginning only"
        case Truncation.RIGHT:
            return ": the prompt alone is too long, and truncation on the right leaves out the response's end only"
