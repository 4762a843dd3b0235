"""What is asked to be scored, as tokens: read in threads of its own, so that no text, however long, holds up the others.

A text that cannot fit by its number of characters is refused before it is tokenised. Long texts have a thread to themselves; the shortest
take less time than the way to a thread and back, and have none.
"""

import asyncio
import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from oprime.core.types import ChatMessage, TokenIds
from oprime.runtime.errors import UnusableInputError
from oprime_prm.scoring.tokenise import Ids, TokenisedInput, Tokeniser, Truncation

FEWEST_CHARACTERS = 16
"""What a token is allowed at least, since whitespace and unknown words may be longer than any token of the vocabulary."""
SHORT_REQUEST = 2048
"""Characters of a request that is read at once: a fraction of a millisecond."""
LONG_REQUEST = 65_536
"""Characters of a request that is read beside the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """A response that follows a conversation."""

    messages: tuple[ChatMessage, ...]
    response: str
    special_tokens: bool = False
    """Whether names of special tokens in the texts stand for these tokens."""

    @property
    def characters(self) -> int:
        return len(self.response) + sum(len(message.content) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """Text that a chat template has written already."""

    prompt: str
    """Where it is empty, the response begins behind the template's last generation prompt."""
    response: str

    @property
    def characters(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenInput:
    prompt_ids: TokenIds
    response_ids: TokenIds

    @property
    def characters(self) -> int:
        """What reading it costs, in characters of a text."""
        return len(self.prompt_ids) + len(self.response_ids)


Form = ChatInput | TextInput | TokenInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An input, and what becomes of it if it is too long."""

    form: Form
    truncation: Truncation = Truncation.ERROR
    most: int = 0
    """Most tokens of prompt and response together; 0 leaves it to the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreInput:
    """One response that can be scored."""

    prompt_ids: TokenIds
    response_ids: TokenIds
    token_texts: tuple[str, ...]
    """Each response token, decoded alone."""
    spans: tuple[tuple[int, int], ...] = ()
    """Half-open character range of each response token; empty for token inputs."""
    has_end_token: bool = False
    dropped_prompt: int = 0
    """Tokens that the truncation left out."""
    dropped_response: int = 0
    trailing: int = 0
    """Tokens behind the end token of a text, which are not scored."""


class InputReader:
    """Tokenises and checks. An input that cannot be scored gets its reason instead."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_id: int, longest: int) -> None:
        """`longest` is the model's context in tokens."""
        self._at_once = _Reading(tokenizer, end_id=end_id, longest=longest)
        self._short, self._long = (_Reading(copy.deepcopy(tokenizer), end_id=end_id, longest=longest) for _ in range(2))
        self._longest = longest
        self._characters_per_token = max(FEWEST_CHARACTERS, *map(len, tokenizer.get_vocab()))

    async def read(self, inputs: Sequence[Wanted]) -> list[ScoreInput | str]:
        """Each input as tokens, or why it cannot be scored."""
        too_long = {place: reason for place, one in enumerate(inputs) if (reason := self._too_long(one))}
        wanted = [one for place, one in enumerate(inputs) if place not in too_long]
        characters = sum(one.form.characters for one in wanted)
        if characters <= SHORT_REQUEST:
            found = iter(self._at_once.now(wanted))
        else:
            found = iter(await (self._short if characters <= LONG_REQUEST else self._long).read(wanted))
        return [too_long[place] if place in too_long else next(found) for place in range(len(inputs))]

    def _too_long(self, one: Wanted) -> str:
        """Why it cannot fit, as far as the number of characters tells; what may be cut has to be tokenised."""
        form = one.form
        if one.truncation is not Truncation.ERROR:
            return ""
        if isinstance(form, TokenInput):
            return _too_many(len(form.prompt_ids), len(form.response_ids), self._longest) if form.characters > self._longest else ""
        if form.characters <= self._longest * self._characters_per_token:
            return ""
        return (
            f"{form.characters} characters exceed what the model's {self._longest} tokens can hold, {self._characters_per_token} "
            "characters each at most: shorten the text, or ask for truncation"
        )


class _Reading:
    """A thread with a tokenizer of its own: tokenizers are not made to be shared."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_id: int, longest: int) -> None:
        self._tokenizer = tokenizer
        self._tokenise = Tokeniser(tokenizer, end_id=end_id, longest=longest)
        self._texts: dict[int, str] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")

    async def read(self, inputs: Sequence[Wanted]) -> list[ScoreInput | str]:
        if not inputs:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.now, inputs)

    def now(self, inputs: Sequence[Wanted]) -> list[ScoreInput | str]:
        # Inputs of one request often share their conversation.
        prompts: dict[tuple[tuple[ChatMessage, ...], bool], Ids] = {}
        return [self._one(one, prompts) for one in inputs]

    def _one(self, wanted: Wanted, prompts: dict[tuple[tuple[ChatMessage, ...], bool], Ids]) -> ScoreInput | str:
        try:
            return self._checked(self._tokenise.fitted(self._tokenised(wanted.form, prompts), wanted.truncation, wanted.most))
        except UnusableInputError as error:
            return str(error)

    def _tokenised(self, form: Form, prompts: dict[tuple[tuple[ChatMessage, ...], bool], Ids]) -> TokenisedInput:
        match form:
            case ChatInput():
                place = (form.messages, form.special_tokens)
                if place not in prompts:
                    prompts[place] = self._tokenise.prompt(form.messages, special_tokens=form.special_tokens)
                return self._tokenise.answer(prompts[place], form.response, special_tokens=form.special_tokens)
            case TextInput():
                return self._tokenise.text(form.prompt, form.response)
            case TokenInput():
                return TokenisedInput(prompt_ids=tuple(form.prompt_ids.tolist()), response_ids=tuple(form.response_ids.tolist()))

    def _checked(self, item: TokenisedInput) -> ScoreInput:
        return ScoreInput(
            prompt_ids=np.asarray(item.prompt_ids, dtype=np.int32),
            response_ids=np.asarray(item.response_ids, dtype=np.int32),
            token_texts=tuple(self._texts.get(token) or self._text(token) for token in item.response_ids),
            spans=item.spans,
            has_end_token=self._tokenise.has_end_token(item),
            dropped_prompt=item.dropped_prompt,
            dropped_response=item.dropped_response,
            trailing=item.trailing,
        )

    def _text(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        return text


def _too_many(prompt: int, response: int, longest: int) -> str:
    return f"{prompt} prompt + {response} response tokens exceed the model's {longest}: shorten the text"
