"""Conversations as tokens, with what the assistant says marked: the part of each turn that a policy would have to sample."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import generated_spans, render_text
from oprime.runtime.errors import UnusableInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedConversation:
    """One value per token."""

    ids: npt.NDArray[np.int32]
    is_trained: Marks
    """True for what the assistant says, each turn up to its end token."""
    rewritten: int = 0
    """Turns of the assistant that are context, because the chat template writes them otherwise once others follow."""


@dataclass(frozen=True, slots=True)
class _Laid:
    """A conversation's text, and which characters of it the assistant says."""

    text: str
    spans: tuple[Span, ...]
    rewritten: int


class ConversationEncoder:
    """Writes conversations through a tokenizer's chat template.

    A template with generation markers says itself what the assistant says. Of others, a turn is what the template adds to the prompt that
    asks for it. Either way text is tokenised in the pieces in which it comes about: what stands before an answer has the very ids that the
    generator samples after.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", end_ids: Sequence[int]) -> None:
        """`end_ids` are the tokens at which sampling stops."""
        self._tokenizer = tokenizer
        self._end_ids = tuple(end_ids)
        self._special_ids = frozenset(token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
        self._ends_of_turns = re.compile(
            "|".join(rf"\s*{re.escape(str(tokenizer.convert_ids_to_tokens(token)))}" for token in self._end_ids)
        )
        self.turn_ends: set[int] = set()
        """Special tokens with which the template ends the assistant's turns although sampling does not stop there."""

    def encode(self, messages: Sequence[ChatMessage]) -> EncodedConversation:
        """A conversation whose last turn is the assistant's; each turn that is trained on ends with an end token.

        A turn that the template writes otherwise once others follow it (without its reasoning, say) is context, and counted. Raises
        UnusableInputError if the template does not write the last turn, or not behind its prompt.
        """
        laid = self._by_markers(messages) or self._by_prompts(messages)
        ids, is_trained, written = list[int](), list[bool](), 0
        for start, end in laid.spans:
            context, (response, rest) = self._ids(laid.text[written:start]), self._split(self._ids(laid.text[start:end]))
            is_last = end == laid.spans[-1][1]
            ids += [*context, *response, *([] if is_last else rest)]
            is_trained += [False] * len(context) + [True] * len(response) + ([] if is_last else [False] * len(rest))
            written = end
        # Nothing predicts the first token.
        is_trained[0] = False
        return EncodedConversation(np.asarray(ids, dtype=np.int32), np.asarray(is_trained, dtype=np.bool_), laid.rewritten)

    def _by_prompts(self, messages: Sequence[ChatMessage]) -> _Laid:
        """Each turn is what stands behind the prompt that asks for it."""
        prompt = render_text(self._tokenizer, messages[:-1], asks=True)
        spans, text, rewritten = list[Span](), "", 0
        for place in _turns(messages):
            is_last = place == len(messages) - 1
            before = prompt if is_last else render_text(self._tokenizer, messages[:place], asks=True)
            after = render_text(self._tokenizer, messages[: place + 1], asks=False)
            if before.startswith(text) and after.startswith(before) and (is_last or prompt.startswith(after)):
                self._require_written(after[len(before) :])
                spans.append((len(before), len(after)))
                text = after
            elif is_last:
                raise UnusableInputError(
                    "the chat template does not write the prompt of this conversation as it writes the beginning of the whole, "
                    "so the response cannot be told apart: use a model whose template does, or put {% generation %} markers into it"
                )
            else:
                rewritten += 1
        return _Laid(text, tuple(spans), rewritten)

    def _by_markers(self, messages: Sequence[ChatMessage]) -> _Laid | None:
        """What the template marks as generated; None for a template without markers."""
        found = generated_spans(self._tokenizer, messages)
        if found is None:
            return None
        text, spans = found
        places = [place for place, message in enumerate(messages) if message.role == "assistant"]
        kept = [text.startswith(render_text(self._tokenizer, messages[: place + 1], asks=False)) for place in places[:-1]] + [True]
        if len(spans) == len(places):
            spans = [span for span, keeps in zip(spans, kept, strict=True) if keeps]
        elif not all(kept):
            spans = spans[-1:]
        self._require_written("".join(text[start:end] for start, end in spans))
        return _Laid(text, tuple(self._to_the_end(text, span) for span in spans if span[1] > span[0]), kept.count(False))

    def _to_the_end(self, text: str, span: Span) -> Span:
        """With the end token that follows, where the markers leave it out."""
        following = self._ends_of_turns.match(text, span[1])
        return (span[0], following.end()) if following else span

    def _require_written(self, response: str) -> None:
        if not response.strip():
            raise UnusableInputError(
                "the chat template writes nothing where the assistant answers, so there is nothing to learn: use a tokenizer whose "
                "template writes the assistant's turns"
            )

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            encoded: Any = self._tokenizer(text, add_special_tokens=False, verbose=False)
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            # The tokenizers library has no errors of its own: a word that the vocabulary lacks is a plain Exception.
            raise UnusableInputError(f"the text cannot be tokenised ({error}): write it in the vocabulary of the model") from error
        return list(encoded["input_ids"])

    def _split(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Up to the last end token, which is where sampling would stop (with one, if the template writes none), and what follows."""
        end = self._last_of(ids, self._end_ids)
        if end is None:
            end = self._own_end(ids)
        return (ids[: end + 1], ids[end + 1 :]) if end is not None else ([*ids, self._end_ids[0]], [])

    def _own_end(self, ids: list[int]) -> int | None:
        """Where the template ends a turn with a token of its own."""
        end = self._last_of(ids, self._special_ids)
        if end is None or str(self._tokenizer.decode(ids[end + 1 :])).strip():
            return None
        self.turn_ends.add(ids[end])
        return end

    @staticmethod
    def _last_of(ids: Sequence[int], wanted: Sequence[int] | frozenset[int]) -> int | None:
        return next((place for place in reversed(range(len(ids))) if ids[place] in wanted), None)


def _turns(messages: Sequence[ChatMessage]) -> list[int]:
    """Places of the assistant's turns that something comes before."""
    return [place for place, message in enumerate(messages) if place and message.role == "assistant"]
