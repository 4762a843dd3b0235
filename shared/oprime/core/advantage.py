"""What every advantage estimator gets, gives and says about itself. The estimators are the files of `oprime.core.estimators`.

Loads no torch: settings, command line and coordinator read what estimators need where there is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from jaxtyping import Bool, Float, Int

from oprime.core.checked import checked
from oprime.core.masked import at_last_token, masked_whiten, returns
from oprime.core.moments import Moments
from oprime.core.one_file import Choice, Formula, Settings
from oprime.core.tensors import Tensor


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreedyRewards:
    """What the greedy response to each rollout's prompt earned."""

    outcome: Float[Tensor, " rollout"]
    process_mean: Float[Tensor, " rollout"]
    """Mean process reward (its sum, where the reward is of the sequence), on the scale of the rollout's own."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards:
    """What the rollouts of some groups earned, and what they may be compared with."""

    process: Float[Tensor, "rollout token"]
    """Process reward of each token, normalised or not."""
    rewarded: Bool[Tensor, "rollout token"]
    """Tokens that carry a process reward: all of the response, or its last one where the reward is of the sequence."""
    outcome: Float[Tensor, " rollout"]
    is_trained: Bool[Tensor, "rollout token"]
    group_ids: Int[Tensor, " rollout"]
    greedy: GreedyRewards | None = None
    """There if the estimator needs greedy responses."""
    values: Float[Tensor, "rollout token"] | None = None
    """The critic's value of what precedes each token; there if the estimator needs a critic."""

    def required_greedy(self) -> GreedyRewards:
        """Raises ValueError where the batch has no greedy baselines."""
        if self.greedy is None:
            raise ValueError("algorithm.estimator needs a greedy baseline per group, but the batch has none: issue one")
        return self.greedy

    def required_values(self) -> Float[Tensor, "rollout token"]:
        """Raises ValueError where there are no values."""
        if self.values is None:
            raise ValueError("algorithm.estimator needs the critic's values of the batch: pass one tensor per rollout")
        return self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The settings of [algorithm] that all estimators see."""

    process_weight: float = 1.0
    outcome_weight: float = 1.0
    process_discount: float = 1.0
    outcome_discount: float = 1.0


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceReturns:
    """Each source's share of the advantage, before its weight; 0 outside the response."""

    process: Float[Tensor, "rollout token"]
    outcome: Float[Tensor, "rollout token"]


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """What an estimator makes of a batch."""

    advantages: Float[Tensor, "rollout token"]
    """Of both sources, weights included; 0 outside the response."""
    sources: SourceReturns
    value_targets: Float[Tensor, "rollout token"] | None = None
    """What the critic shall learn, 0 outside the response; None without one."""

    @checked
    def whitened(self, is_trained: Bool[Tensor, "rollout token"], moments: Moments, *, factor: float = 1.0) -> "Estimate":
        """With mean 0 and variance 1 over all tokens of the batch that are trained on, whose `moments` are given; times `factor`."""
        return replace(self, advantages=factor * masked_whiten(self.advantages, is_trained, moments))


def weighted(sources: SourceReturns, choices: Choices) -> Estimate:
    """Weight both sources and add them. A source of weight 0 is the estimator without it."""
    return Estimate(advantages=choices.process_weight * sources.process + choices.outcome_weight * sources.outcome, sources=sources)


@checked
def earned_ahead(
    rewards: Rewards, choices: Choices, process: Float[Tensor, "rollout token"], outcome: Float[Tensor, " rollout"]
) -> Estimate:
    """The advantage of a token is what is earned from it on: process rewards and the outcome's at the last token, discounted."""
    return weighted(returns_of_sources(rewards, process, outcome, choices.process_discount, choices.outcome_discount), choices)


@checked
def returns_of_sources(
    rewards: Rewards,
    process: Float[Tensor, "rollout token"],
    outcome: Float[Tensor, " rollout"],
    process_discount: float,
    outcome_discount: float,
) -> SourceReturns:
    """Each source's discounted sum from every token to the last."""
    is_trained = rewards.is_trained
    return SourceReturns(
        process=returns(process.where(rewards.rewarded, 0.0), is_trained, process_discount),
        outcome=returns(at_last_token(outcome, is_trained), is_trained, outcome_discount),
    )


def whitening_factor(process_std: float, outcome_std: float, *, guard: float) -> float:
    """What whitened advantages are multiplied by: min(1, outcome_std / (guard * process_std)), of the weighted parts of a whole batch.

    Without variance of outcomes nothing would be left in a batch but what the PRM says of it, and whitening would lift that to full
    size, noise or not. 1 where the guard is 0, or there is no variance of process rewards.
    """
    limit = guard * process_std
    return min(1.0, outcome_std / limit) if limit > 0 else 1.0


class Need(StrEnum):
    """What an estimator needs besides the rewards of a rollout; the rest of the system provides it."""

    SIBLINGS = "siblings"
    """At least two rollouts of a prompt."""
    GREEDY_RESPONSE = "a greedy response"
    """One more response per prompt, at temperature 0: verified and scored, never trained on."""
    CRITIC = "a critic"
    """Learned values (section [critic])."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageTerm(Formula):
    """A term of the advantage. The one called "advantage" is A_t itself; an estimator without it weights and adds its process and outcome
    part."""

    source: Literal["process", "outcome", "both"] = "both"
    """The rewards that it comes from: those of weight 0 have no terms. An estimator without a term of a source refuses a weight for it."""

    def holds(self, settings: Settings) -> bool:
        return (self.source == "both" or settings[f"{self.source}_weight"] > 0) and Formula.holds(self, settings)


def process_part(text: str, *, symbols: Mapping[str, str] | None = None, when: Settings | None = None) -> AdvantageTerm:
    """P_t, in which g is the discount of process rewards, with more symbols if there are any."""
    known = {"g": "process_discount", **(symbols or {})}
    return AdvantageTerm(term="process part", text=text, source="process", symbols=known, when=when or {})


def outcome_part(text: str, *, symbols: Mapping[str, str] | None = None, when: Settings | None = None) -> AdvantageTerm:
    """O_t, in which g is the discount of the outcome reward, and T the last token, with more symbols if there are any."""
    known = {"g": "outcome_discount", **(symbols or {})}
    return AdvantageTerm(term="outcome part", text=text, source="outcome", symbols=known, when=when or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator(Choice):
    """An advantage estimator with all that is particular to it. Its file's name is its name in `algorithm.estimator`."""

    formulas: tuple[AdvantageTerm, ...]
    estimate: Callable[..., Estimate]
    """Pure: from `Rewards`, `Choices` and settings by name to an `Estimate`; whitening comes after it."""
    by_group: bool = False
    """Whether what it returns for a group depends on no other. Then it gets a large batch in parts of whole groups, in bounded memory;
    otherwise the whole batch at once."""
    needs: frozenset[Need] = frozenset()
    process_is_baseline: bool = False
    """Whether its process part is what an outcome is compared with, a value, and not what was earned: it need not rise with the outcome."""
    prm_losses: frozenset[str] = frozenset()
    """The losses of a PRM whose rewards it can read; empty for all."""

    @property
    def needed(self) -> tuple[str, ...]:
        return tuple(sorted(self.needs))

    def takes(self, source: Literal["process", "outcome"]) -> bool:
        """Whether any of its terms comes from these rewards."""
        return any(formula.source in (source, "both") for formula in self.formulas)
