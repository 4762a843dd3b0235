"""Score requests: text or tokens in, token rewards out."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.errors import UnusableInputError
from oprime_prm.serving import ServingPrm, TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()
    """Half-open character range of each response token; empty for token inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    input: ScoreInput
    scores: TokenScores
    token_texts: tuple[str, ...]


class Scorer:
    """Tokenises, checks and scores. An item that cannot be scored gets an error of its own."""

    def __init__(self, serving: ServingPrm, tokenizer: PreTrainedTokenizerBase, *, end_id: int, longest: int, max_items: int) -> None:
        self._serving = serving
        self._tokenizer = tokenizer
        self._end_id = end_id
        self._longest = longest
        self._max_items = max_items
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")

    def chat_input(self, messages: tuple[ChatMessage, ...], response: str) -> ScoreInput:
        """Tokens of a response as the policy would have sampled it: the text, then the end token."""
        prompt = render_prompt(self._tokenizer, messages)
        encoded = self._tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]  # pyright: ignore[reportGeneralTypeIssues]
        spans.append((len(response), len(response)))
        ids = (*encoded["input_ids"], self._end_id)  # pyright: ignore[reportGeneralTypeIssues]
        return self.token_input(tuple(prompt), ids, spans=tuple(spans))

    def token_input(
        self, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], *, spans: tuple[tuple[int, int], ...] = ()
    ) -> ScoreInput:
        vocabulary = len(self._tokenizer)
        if not prompt_ids or not response_ids:
            raise UnusableInputError("prompt and response need at least one token each: the prompt predicts the response's first token")
        wrong = next((token for token in (*prompt_ids, *response_ids) if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise UnusableInputError(f"token id {wrong} is not in the vocabulary of {vocabulary}: use the PRM's own tokenizer")
        if len(prompt_ids) + len(response_ids) > self._longest:
            raise UnusableInputError(
                f"{len(prompt_ids)} prompt + {len(response_ids)} response tokens exceed the model's {self._longest}: shorten the text"
            )
        return ScoreInput(prompt_ids=tuple(prompt_ids), response_ids=tuple(response_ids), spans=spans)

    def check_count(self, count: int) -> None:
        if count > self._max_items:
            raise UnusableInputError(f"{count} items exceed prm.max_score_items ({self._max_items}): send them in several requests")

    async def score(self, inputs: list[ScoreInput]) -> tuple[list[ScoredItem], int]:
        """Scores of all inputs and the one PRM version they come from."""
        scores, version = await asyncio.get_running_loop().run_in_executor(
            self._thread,
            self._serving.score,
            [item.prompt_ids for item in inputs],
            [item.response_ids for item in inputs],
        )
        items = [
            ScoredItem(input=item, scores=score, token_texts=tuple(self.token_texts(item.response_ids)))
            for item, score in zip(inputs, scores, strict=True)
        ]
        return items, version

    def token_texts(self, ids: tuple[int, ...]) -> list[str]:
        return [str(self._tokenizer.decode([token])) for token in ids]
