"""The learner's share of a train step, the same on every rank: values, advantages, policy loss, optimizer steps."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oprime.core.kl import outcome_rewards_less_kl, token_kl
from oprime.core.policy_loss import PolicyLossOptions, PolicyLossSums, loss_sums, policy_loss
from oprime.core.schedule import learning_rate
from oprime.core.token_rows import response_matrix
from oprime.core.types import ScoredBatch
from oprime.lm.batches import gather_responses
from oprime.lm.frozen import FrozenModel
from oprime.ports import TrainEngine
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import batch_advantages, verifier_rewards
from oprime_learner.config import LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.metrics import batch_metrics, loss_metrics, mismatch_metrics
from oprime_learner.parts import Part, parts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Log-probs of a part's micro-batches that stay as they are while it is trained on."""

    proximal: list[Tensor] | None
    """None where the training pass itself is the proximal policy."""
    reference: list[Tensor] | None


class PolicyTrainer:
    """pi_theta with its optimizer. `process` is collective; its metrics are complete on rank 0."""

    def __init__(
        self,
        engine: TrainEngine,
        algorithm: AlgorithmSection,
        settings: LearnerSection,
        *,
        pad_id: int,
        total_steps: int,
        reference: FrozenModel | None = None,
        critic: CriticTrainer | None = None,
    ) -> None:
        """`reference` is what the KL is measured against; it is needed when algorithm.kl_coefficient is above 0. PPO needs `critic`."""
        if algorithm.kl_coefficient > 0 and reference is None:
            raise ValueError(f"algorithm.kl_coefficient ({algorithm.kl_coefficient}) needs a reference model: pass one, or set it to 0")
        if algorithm.needs_critic != (critic is not None):
            raise ValueError(
                f'algorithm.estimator = "{algorithm.estimator}" with critic {critic}: "ppo" needs one, and nothing else has one'
            )
        self._engine = engine
        self._algorithm = algorithm
        self._settings = settings
        self._pad_id = pad_id
        self._total_steps = total_steps
        self._reference = reference
        self._critic = critic
        self._options = loss_options(algorithm)
        self.trained_tokens = 0

    def process(self, scored: ScoredBatch) -> dict[str, float]:
        """Train on one batch: step t of the policy."""
        parts = self._parts(scored)
        given = [self._given(part, len(parts)) for part in parts]
        outcomes, kl_metrics = self._outcome_rewards(scored, parts, given)
        values = [] if self._critic is None else self._critic.values(scored)
        advantages = batch_advantages(scored, self._algorithm, outcomes, values)
        rate = learning_rate(
            scored.batch.step,
            peak=self._settings.learning_rate,
            schedule=self._settings.schedule,
            warmup_steps=self._settings.warmup_steps,
            total_steps=self._total_steps,
            min_ratio=self._settings.min_learning_rate_ratio,
        )
        metrics = self._update(parts, given, advantages.per_rollout, rate)
        if self._critic is not None:
            metrics |= self._critic.update(scored, values, advantages.value_targets)
        self.trained_tokens += sum(part.counts.tokens for part in parts)
        return metrics | advantages.metrics | kl_metrics | batch_metrics(scored) | {"learning_rate": rate}

    def _parts(self, scored: ScoredBatch) -> list[Part]:
        return parts_of(scored, self._engine, self._settings, pad_id=self._pad_id)

    def _given(self, part: Part, parts: int) -> Given:
        # With one optimizer step the proximal policy is the policy itself, and its forward pass is the training pass.
        needed = parts > 1 or self._kl_in_reward
        reference = self._reference if self._algorithm.kl_coefficient > 0 else None
        return Given(
            proximal=[self._engine.logprobs(batch.rows) for batch in part.batches] if needed else None,
            reference=[reference.logprobs(batch.rows) for batch in part.batches] if reference is not None else None,
        )

    @property
    def _kl_in_reward(self) -> bool:
        return self._algorithm.kl_coefficient > 0 and self._algorithm.kl_in == "reward"

    def _outcome_rewards(self, scored: ScoredBatch, parts: list[Part], given: list[Given]) -> tuple[Tensor, dict[str, float]]:
        """The verifier's rewards, less the KL where it belongs into the reward; on every rank those of all rollouts."""
        rewards = verifier_rewards(scored)
        if not self._kl_in_reward:
            return rewards, {}
        kept = torch.zeros_like(rewards)
        nats = torch.zeros(1, dtype=torch.float64)
        for part, known in zip(parts, given, strict=True):
            for batch, policy, reference in zip(part.batches, known.proximal or [], known.reference or [], strict=True):
                places = torch.tensor(part.places(batch), dtype=torch.int64)
                is_response = batch.rows.is_response
                kl = token_kl(policy.double(), reference.double(), is_response, estimator=self._algorithm.kl_estimator)
                kept[places] = outcome_rewards_less_kl(rewards[places], kl, is_response, coefficient=self._algorithm.kl_coefficient)
                nats += kl.sum()
        tokens = sum(part.counts.tokens for part in parts)
        return self._engine.all_sum(kept), {"reference_kl_nats": float(self._engine.all_sum(nats)) / tokens}

    def _update(self, parts: list[Part], given: list[Given], advantages: list[Tensor], rate: float) -> dict[str, float]:
        totals = torch.zeros(len(PolicyLossSums().values()), dtype=torch.float64)
        norms: list[float] = []
        learner_logprobs: list[list[np.ndarray] | None] = []
        for part, known in zip(parts, given, strict=True):
            sums, norm, seen = self._optimizer_step(part, known, advantages[part.first : part.first + len(part.rollouts)], rate)
            totals += sums
            norms.append(norm)
            learner_logprobs.append(gather_responses(self._engine, part.batches, known.proximal or seen, len(part.rollouts)))
        sums = loss_sums(self._engine.all_sum(totals).tolist())
        return {
            **loss_metrics(sums, self._options, optimizer_steps=len(parts)),
            "policy_gradient_norm": sum(norms) / len(norms),
            **mismatch_metrics([part.rollouts for part in parts], learner_logprobs),
        }

    def _optimizer_step(self, part: Part, given: Given, advantages: list[Tensor], rate: float) -> tuple[Tensor, float, list[Tensor]]:
        """This rank's `PolicyLossSums`, the gradient norm, and the policy's log-probs before the step."""
        totals = torch.zeros(len(PolicyLossSums().values()), dtype=torch.float64)
        seen: list[Tensor] = [torch.zeros(batch.rows.is_response.shape) for batch in part.batches]

        def loss(index: int, logprobs: Tensor, entropies: Tensor) -> Tensor:
            batch, device = part.batches[index], logprobs.device
            seen[index] = logprobs.detach().cpu()
            is_response = batch.rows.is_response
            behaviour = [part.rollouts[place].rollout.behaviour_logprobs for place in batch.positions]
            result = policy_loss(
                logprobs,
                (seen[index] if given.proximal is None else given.proximal[index]).to(device),
                response_matrix(behaviour, is_response).to(device),
                response_matrix([advantages[place] for place in batch.positions], is_response).to(device),
                is_response.to(device),
                part.shares(batch, self._algorithm.aggregation).to(device),
                self._options,
                reference_logprobs=None if given.reference is None else given.reference[index].to(device),
                # Without a bonus the entropy is only measured: detached, it costs no backward pass.
                entropies=entropies if self._options.entropy_coefficient else entropies.detach(),
            )
            totals.add_(torch.tensor(result.sums.values(), dtype=torch.float64))
            return result.loss

        norm = self._engine.train_step([batch.rows for batch in part.batches], loss, learning_rate=rate, entropies=True)
        return totals, norm, seen


def loss_options(algorithm: AlgorithmSection) -> PolicyLossOptions:
    """What the settings say about the policy loss."""
    return PolicyLossOptions(
        surrogate=algorithm.policy_loss,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip or None,
        correction=algorithm.correction,
        importance_cap=algorithm.importance_cap,
        band_low=algorithm.band_low,
        band_high=algorithm.band_high,
        kl_estimator=algorithm.kl_estimator,
        kl_coefficient=algorithm.kl_coefficient if algorithm.kl_in == "loss" else 0.0,
        entropy_coefficient=algorithm.entropy_coefficient,
    )
