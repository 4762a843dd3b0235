"""From the texts and tokens of a score request to the PRM's tokens. Pure but for the tokenizer."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from oprime.core.types import ChatMessage
from oprime.lm.responses import Ids, ResponseEncoder, Span
from oprime.lm.tokenizers import render_text
from oprime.runtime.errors import UnusableInputError


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
        self._encoder = ResponseEncoder(tokenizer, end_id)
        self._end_id = end_id
        self._longest = longest

    def prompt(self, messages: tuple[ChatMessage, ...], *, special_tokens: bool = False) -> Ids:
        """A conversation up to where the answer begins. Raises UnusableInputError."""
        return self._encoder.prompt(messages, special_tokens=special_tokens)

    def answer(self, prompt: Ids, response: str, *, special_tokens: bool = False) -> TokenisedInput:
        """A response as the policy would have sampled it: the text, then the end token. Raises UnusableInputError."""
        ids, spans = self._encoder.response(response, special_tokens=special_tokens)
        return TokenisedInput(prompt_ids=prompt, response_ids=ids, spans=spans)

    def text(self, prompt: str, response: str) -> TokenisedInput:
        """A text that a chat template has written already. Raises UnusableInputError."""
        if not prompt:
            prompt, response = self._parted(response)
        scored = self._until_end(response)
        ids, spans = self._encoder.text(scored, special_tokens=True)
        trailing = len(self._encoder.text(response[len(scored) :], special_tokens=True)[0])
        if prompt:
            prompt_ids, _ = self._encoder.text(prompt, special_tokens=True)
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
