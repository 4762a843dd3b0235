"""A PRM and its reference, which together give token rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from oprime.core.implicit_reward import printed_rewards
from oprime.core.prompt_families import PromptFamily
from oprime.lm.frozen import FrozenModel


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

    def shares(self, prompt_tokens: int, longest_response: int) -> bool:
        """Whether responses of up to so many tokens to one prompt cost that prompt once."""
        return self.prm.shares(prompt_tokens, longest_response) and self.reference.shares(prompt_tokens, longest_response)

    def score(self, families: Sequence[PromptFamily], most_tokens: int) -> tuple[list[list[TokenScores]], int]:
        """Scores of each response of each family, and the version. Padded models take at most so many tokens at a time."""
        prm = self.prm.family_logprobs(families, pad_id=self.pad_id, most_tokens=most_tokens)
        # A PRM that starts as its own reference is one model.
        same = self.prm is self.reference
        reference = prm if same else self.reference.family_logprobs(families, pad_id=self.pad_id, most_tokens=most_tokens)
        return [
            [self._scores(ours, theirs) for ours, theirs in zip(own, frozen, strict=True)]
            for own, frozen in zip(prm, reference, strict=True)
        ], self.version

    def _scores(self, prm: Tensor, reference: Tensor) -> TokenScores:
        return TokenScores(process_rewards=printed_rewards(prm, reference, self.beta), prm_logprobs=prm, reference_logprobs=reference)
