"""Token rewards for any prompt and response, while training goes on: a copy of the PRM that training does not touch."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.implicit_reward import token_process_rewards
from oprime.core.token_rows import ragged, token_rows
from oprime.lm.frozen import FrozenModel
from oprime.runtime.errors import NotReadyError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """One value per response token."""

    process_rewards: Tensor
    prm_logprobs: Tensor
    reference_logprobs: Tensor


class ServingPrm:
    """The newest PRM version and its reference, from the first refresh on. Thread-safe: a refresh and a score never mix."""

    def __init__(self, copy: FrozenModel, reference: FrozenModel, *, beta: float, pad_id: int, rows_per_pass: int) -> None:
        self._copy = copy
        self._reference = reference
        self._beta = beta
        self._pad_id = pad_id
        self._rows_per_pass = rows_per_pass
        self._lock = threading.Lock()
        self._ready = False
        self.version = 0
        self.scored_tokens = 0

    def refresh(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Move to a newer version."""
        with self._lock:
            self._copy.load_weights(weights)
            self.version = version
            self._ready = True

    def score(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[list[TokenScores], int]:
        """Scores in the order given, all from the one version that is returned with them. Raises NotReadyError before the first."""
        with self._lock:
            if not self._ready:
                raise NotReadyError("the PRM has not loaded the weights of this run yet: ask again when it is healthy")
            scores: list[TokenScores] = []
            for start in range(0, len(prompts), self._rows_per_pass):
                end = start + self._rows_per_pass
                scores += self._score_pass(prompts[start:end], responses[start:end])
            self.scored_tokens += sum(len(response) for response in responses)
            return scores, self.version

    def _score_pass(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[TokenScores]:
        rows = token_rows(prompts, responses, pad_id=self._pad_id)
        prm, reference = self._copy.logprobs(rows), self._reference.logprobs(rows)
        rewards = token_process_rewards(prm, reference, rows.is_trained, self._beta)
        columns = zip(*(ragged(values, rows.is_trained) for values in (rewards, prm, reference)), strict=True)
        return [
            TokenScores(process_rewards=reward.to(torch.float32), prm_logprobs=first, reference_logprobs=second)
            for reward, first, second in columns
        ]
