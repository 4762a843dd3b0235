"""The policy loss of a micro-batch, and what a file of `oprime.core.policy_losses` gets, gives and says about itself.

Loads no torch: settings and command line read what the files say where there is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from jaxtyping import Bool, Float

from oprime.core.checked import checked
from oprime.core.importance import Correction, exp_along_its_tangent, importance_weights
from oprime.core.kl import KlEstimator, token_kl
from oprime.core.one_file import Choice
from oprime.core.tensors import Tensor


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyTokens:
    """What a policy loss gets of a micro-batch. Everything is 0 outside the response."""

    logprobs: Float[Tensor, "rollout token"]
    """log pi_theta, nats, with gradient."""
    log_ratio: Float[Tensor, "rollout token"]
    """log pi_theta - log pi_proximal, nats, with gradient."""
    advantages: Float[Tensor, "rollout token"]
    is_trained: Bool[Tensor, "rollout token"]

    @property
    def ratio(self) -> Float[Tensor, "rollout token"]:
        """pi_theta / pi_proximal, with gradient. Beyond `LARGEST_LOG_RATIO` it goes on along its tangent."""
        return exp_along_its_tangent(self.log_ratio)


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surrogate:
    """What a policy loss gives."""

    losses: Float[Tensor, "rollout token"]
    """With gradient; the correction for old weights comes after it."""
    marked: Mapping[str, Bool[Tensor, "rollout token"]] = field(default_factory=dict[str, Tensor])
    """Tokens to count: those under NAME become the metric NAME_tokens_ratio. The same names for every micro-batch, an empty one too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss(Choice):
    """A policy loss with all that is particular to it. Its file's name is its name in `algorithm.policy_loss`."""

    surrogate: Callable[..., Surrogate]
    """Pure: from `PolicyTokens`, and own settings by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLossOptions:
    loss: PolicyLoss
    correction: Correction
    kl_estimator: KlEstimator = "k3"
    kl_coefficient: float = 0.0
    """Weight of the KL to the reference in the loss."""
    entropy_coefficient: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLossSums:
    """Sums over the response tokens of a micro-batch: add them up over the step, then divide by `tokens`."""

    tokens: float = 0.0
    loss: float = 0.0
    """Already a share of the step's loss."""
    capped: float = 0.0
    """Tokens whose importance weight was cut at the cap, or masked, alone or with their response."""
    proximal_kl: float = 0.0
    """Nats; proximal - policy log-probs (k1 estimate of KL(proximal, policy))."""
    importance_weight: float = 0.0
    reference_kl: float = 0.0
    """Nats; KL(policy, reference) by the chosen estimator, 0 without a reference."""
    surprisal: float = 0.0
    """Nats; -log pi of the sampled tokens. Beside the entropy it tells how far the rollouts are from what the policy would sample."""
    entropy: float = 0.0
    """Nats; 0 without entropies."""
    marked: Mapping[str, float] = field(default_factory=dict[str, float])
    """Tokens that the policy loss marked, by name."""

    def values(self) -> list[float]:
        return [*(float(getattr(self, name)) for name in _SUMS), *self.marked.values()]

    def with_values(self, values: list[float]) -> "PolicyLossSums":
        """Those whose `values` these are; with the same names of marked tokens."""
        sums, marked = values[: len(_SUMS)], values[len(_SUMS) :]
        return PolicyLossSums(**dict(zip(_SUMS, sums, strict=True)), marked=dict(zip(self.marked, marked, strict=True)))


_SUMS = tuple(one.name for one in fields(PolicyLossSums) if one.name != "marked")


@checked
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepLoss:
    """A micro-batch's share of the step's loss."""

    loss: Float[Tensor, ""]
    """With gradient."""
    sums: PolicyLossSums


@checked
def policy_loss(
    policy_logprobs: Float[Tensor, "rollout token"],
    proximal_logprobs: Float[Tensor, "rollout token"],
    behaviour_logprobs: Float[Tensor, "rollout token"],
    advantages: Float[Tensor, "rollout token"],
    is_trained: Bool[Tensor, "rollout token"],
    shares: Float[Tensor, "rollout token"],
    options: PolicyLossOptions,
    *,
    reference_logprobs: Float[Tensor, "rollout token"] | None = None,
    entropies: Float[Tensor, "rollout token"] | None = None,
) -> StepLoss:
    """Sum over response tokens of share * (w * surrogate + kl_coefficient * KL - entropy_coefficient * H).

    The surrogate's ratio policy / proximal probability carries the gradient; w corrects proximal / behaviour probability and does not
    (decoupled PPO; with one optimizer step per batch proximal = policy, and w alone acts). `shares` are those of
    `aggregation.token_shares`. Raises ValueError for a coefficient whose input is missing.
    """
    _require_inputs(options, reference_logprobs, entropies)
    policy, share = policy_logprobs.where(is_trained, 0.0), shares.where(is_trained, 0.0)
    log_ratio = policy - proximal_logprobs.where(is_trained, 0.0)
    tokens = PolicyTokens(logprobs=policy, log_ratio=log_ratio, advantages=advantages.where(is_trained, 0.0), is_trained=is_trained)
    correction = importance_weights(proximal_logprobs, behaviour_logprobs, is_trained, correction=options.correction)
    surrogate = options.loss.surrogate(tokens)
    kl = _zeros(policy) if reference_logprobs is None else token_kl(policy, reference_logprobs, is_trained, estimator=options.kl_estimator)
    entropy = _zeros(policy) if entropies is None else entropies.where(is_trained, 0.0)
    per_token = correction.weights * surrogate.losses + options.kl_coefficient * kl - options.entropy_coefficient * entropy
    loss = (share * per_token).sum().to(policy_logprobs.dtype)
    return StepLoss(
        loss=loss,
        sums=PolicyLossSums(
            tokens=float(is_trained.sum()),
            loss=float(loss.detach()),
            capped=float(correction.capped.sum()),
            proximal_kl=-_sum(log_ratio),
            importance_weight=_sum(correction.weights),
            reference_kl=_sum(kl),
            surprisal=-_sum(policy),
            entropy=_sum(entropy),
            marked={name: float((marks & is_trained).sum()) for name, marks in surrogate.marked.items()},
        ),
    )


def sums_of_nothing(options: PolicyLossOptions) -> PolicyLossSums:
    """The sums of a micro-batch without rollouts: what every rank begins to add to."""
    import torch

    nothing = torch.zeros(0, 0)
    tokens = PolicyTokens(logprobs=nothing, log_ratio=nothing, advantages=nothing, is_trained=nothing.bool())
    return PolicyLossSums(marked=dict.fromkeys(options.loss.surrogate(tokens).marked, 0.0))


def _require_inputs(options: PolicyLossOptions, reference_logprobs: Tensor | None, entropies: Tensor | None) -> None:
    if options.kl_coefficient != 0 and reference_logprobs is None:
        raise ValueError(f"kl_coefficient ({options.kl_coefficient}) needs reference_logprobs: pass them, or set the coefficient to 0")
    if options.entropy_coefficient != 0 and entropies is None:
        raise ValueError(f"entropy_coefficient ({options.entropy_coefficient}) needs entropies: pass them, or set the coefficient to 0")


def _zeros(like: Tensor) -> Tensor:
    return like.new_zeros(like.shape)


def _sum(values: Tensor) -> float:
    return float(values.detach().double().sum())
