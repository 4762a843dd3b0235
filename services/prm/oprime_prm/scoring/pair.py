"""A PRM and its reference, which together give token rewards."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from oprime.core.implicit_reward import printed_rewards
from oprime.core.prompt_families import PromptFamily
from oprime.lm.frozen import FrozenModel

WORTH_A_THREAD = 2 * 10**7
"""Tokens of a pass times the model's weights, below which two threads wait for Python's lock longer than they compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Computes the reference while the PRM is computed, on a CPU with several cores."""

    thread: Executor
    is_borrowed: bool = False
    """Whether its core is another process's, which answers requests as well: it is taken for passes of a single prompt, of which there are
    many only while few requests are under way."""

    def is_worth(self, families: Sequence[PromptFamily], weights: int) -> bool:
        """Whether a pass through models of so many weights ends sooner so."""
        tokens = sum(len(family.prompt_ids) + family.response_tokens for family in families)
        return tokens * weights >= WORTH_A_THREAD and (len(families) == 1 or not self.is_borrowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """One value per response token."""

    process_rewards: Tensor
    prm_logprobs: Tensor
    reference_logprobs: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPair:
    """One version of the PRM beside its reference."""

    prm: FrozenModel
    reference: FrozenModel
    beta: float
    pad_id: int
    version: int
    beside: Beside | None = None

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        """Whether responses of up to so many tokens to one prompt cost that prompt once."""
        return self.prm.shares(prompt_tokens, longest_response) and self.reference.shares(prompt_tokens, longest_response)

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        """Scores of each response of each family, and the version. Padded models take at most so many tokens at a time."""
        compute = partial(FrozenModel.family_logprobs, families=families, pad_id=self.pad_id, most_tokens=most_tokens)
        if self.prm is self.reference:  # A PRM that starts as its own reference is one model.
            prm = reference = compute(self.prm)
        elif self.beside is not None and self.beside.is_worth(families, self.prm.weights):
            waiting = self.beside.thread.submit(compute, self.reference)
            prm, reference = compute(self.prm), waiting.result()
        else:
            prm, reference = compute(self.prm), compute(self.reference)
        ours, theirs = ([values for family in found for values in family] for found in (prm, reference))
        scores = iter(self._scores(ours, theirs))
        return [[next(scores) for _ in family.responses] for family in families], self.version

    def _scores(self, prm: Sequence[Tensor], reference: Sequence[Tensor]) -> list[TokenScores]:
        """Of each response; rewards are computed for all of them at once."""
        rewards = printed_rewards(torch.cat(list(prm)), torch.cat(list(reference)), self.beta).split([len(values) for values in prm])
        return [
            TokenScores(process_rewards=own, prm_logprobs=ours, reference_logprobs=theirs)
            for own, ours, theirs in zip(rewards, prm, reference, strict=True)
        ]
