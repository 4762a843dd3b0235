"""Sample one response, one token at a time: the reference that any sampler can be compared with.

Every rollout is a batch of one with a random generator of its own, so it does not depend on what else is sampled.
"""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from oprime.core.types import FinishReason

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    response_ids: tuple[int, ...]
    """Includes the end token, if one was sampled."""
    behaviour_logprobs: tuple[float, ...]
    """log pi of each token after temperature; at temperature 0, as for temperature 1."""
    finish_reason: FinishReason


class TokenSampler:
    """The state of one response in the making: its tokens, what the model keeps of them, and random generator."""

    def __init__(self, model: "PreTrainedModel", prompt_ids: Sequence[int], *, temperature: float, seed: int, top_p: float = 1.0) -> None:
        if not prompt_ids:
            raise ValueError("prompt_ids is empty: a response needs at least one token to follow")
        if temperature < 0:
            raise ValueError(f"temperature ({temperature}) must not be negative; 0 takes the most probable token")
        self._model = model
        self._ids = list(prompt_ids)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p ({top_p}) must be above 0 and at most 1; 1 samples from all tokens")
        self._temperature = temperature
        self._top_p = top_p
        self._random = torch.Generator().manual_seed(seed)
        self._cache: object = None
        takes = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        # Models of states alone (Mamba) have another name for what they keep of the tokens before.
        self._cache_name = "cache_params" if "cache_params" in takes and "past_key_values" not in takes else "past_key_values"

    def forget_cache(self) -> None:
        """Read all tokens again at the next step: the weights have changed."""
        self._cache = None

    @torch.no_grad()
    def step(self) -> tuple[int, float]:
        """Sample the next token; returns it with its log-prob."""
        fresh = self._ids if self._cache is None else self._ids[-1:]
        kept = {self._cache_name: self._cache}
        outputs = self._model(input_ids=torch.tensor([fresh], device=self._model.device), use_cache=True, **kept, **self._options)
        self._cache = getattr(outputs, self._cache_name)
        logits = outputs.logits[0, -1].float().cpu()
        if self._temperature == 0:
            logprobs = torch.log_softmax(logits, dim=-1)
            token = int(logits.argmax())
        else:
            logprobs = torch.log_softmax(nucleus(logits / self._temperature, self._top_p), dim=-1)
            token = int(torch.multinomial(logprobs.exp(), 1, generator=self._random))
        self._ids.append(token)
        return token, float(logprobs[token])


def nucleus(logits: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """Logits with -inf for all but the most probable tokens that together have the probability `top_p`; at least one is left."""
    if top_p >= 1:
        return logits
    ordered, places = logits.sort(descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    return logits.scatter(0, places[before >= top_p], float("-inf"))


def sample_response(
    model: "PreTrainedModel", prompt_ids: Sequence[int], *, temperature: float, max_tokens: int, seed: int, end_ids: Collection[int]
) -> SampledTokens:
    """Sample until an end token or `max_tokens`. Same model, arguments and thread count: same response, bit for bit."""
    sampler = TokenSampler(model, prompt_ids, temperature=temperature, seed=seed)
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < max_tokens and (not ids or ids[-1] not in end_ids):
        token, logprob = sampler.step()
        ids.append(token)
        logprobs.append(logprob)
    reason = FinishReason.STOP if ids and ids[-1] in end_ids else FinishReason.LENGTH
    return SampledTokens(response_ids=tuple(ids), behaviour_logprobs=tuple(logprobs), finish_reason=reason)
