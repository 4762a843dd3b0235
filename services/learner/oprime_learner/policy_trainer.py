"""The learner's share of a train step, the same on every rank: values, advantages, policy loss, optimizer steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.kl import outcome_rewards_less_kl, token_kl
from oprime.core.overlong import overlong_penalties
from oprime.core.policy_loss import PolicyLossOptions, policy_loss, sums_of_nothing
from oprime.core.token_rows import response_matrix
from oprime.core.types import Batch, ProcessRewards
from oprime.lm.batches import Contents, RowFetcher, RowsOf
from oprime.lm.frozen import FrozenModel
from oprime.ports import TrainEngine
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.batch_advantages import batch_advantages, verifier_rewards
from oprime_learner.config import LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.metrics import Comparison, batch_metrics, loss_metrics, mismatch_metrics
from oprime_learner.parts import Part, parts_of
from oprime_learner.samples import LearnedRollout, PolicyLogprobs, learned_rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Log-probs of a part's micro-batches that stay as they are while it is trained on."""

    proximal: list[Tensor] | None
    """None where the training pass itself is the proximal policy."""
    reference: list[Tensor] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is kept of the policy's log-probs before the batch."""

    compared: Comparison
    logprobs: PolicyLogprobs


class PolicyTrainer:
    """pi_theta with its optimizer. `process` is collective; its metrics are complete on rank 0."""

    def __init__(
        self,
        engine: TrainEngine,
        algorithm: AlgorithmSection,
        settings: LearnerSection,
        contents: Contents,
        *,
        pad_id: int,
        total_steps: int,
        reference: FrozenModel | None = None,
        critic: CriticTrainer | None = None,
        max_response_tokens: int = 0,
    ) -> None:
        """`contents` fetches rollouts. `reference` is what the KL is measured against, needed if algorithm.kl_coefficient is above 0.

        Some estimators need `critic`. `max_response_tokens` is where responses are cut, needed if algorithm.overlong_buffer is above 0.
        """
        if algorithm.kl_coefficient > 0 and reference is None:
            raise ValueError(f"algorithm.kl_coefficient ({algorithm.kl_coefficient}) needs a reference model: pass one, or set it to 0")
        if algorithm.needs_critic != (critic is not None):
            needs = "needs a critic, but there is none: pass one" if algorithm.needs_critic else "has no use for a critic: pass none"
            raise ValueError(f'algorithm.estimator = "{algorithm.estimator}" {needs}')
        if algorithm.overlong_buffer > max_response_tokens:
            raise ValueError(
                f"algorithm.overlong_buffer ({algorithm.overlong_buffer}) needs the limit of responses, at least as long: pass it, or set "
                "the buffer to 0"
            )
        self._engine = engine
        self._algorithm = algorithm
        self._max_response_tokens = max_response_tokens
        self._settings = settings
        self._fetcher = RowFetcher(contents, pad_id=pad_id)
        self._learning_rates = settings.learning_rates(total_steps)
        self._reference = reference
        self._critic = critic
        self._options = loss_options(algorithm)
        self._no_sums = sums_of_nothing(self._options)
        self.learned: list[LearnedRollout] = []
        """On rank 0: what the first groups of the last batch taught (learner.sampled_groups)."""

    def process(self, batch: Batch, rewards: ProcessRewards, *, noise_return: float = 0.0) -> dict[str, float]:
        """Train on one batch: step t of the policy. `rewards` are those of the whole batch, on every rank, and `noise_return` the largest
        return that their rounding was seen to have."""
        parts = parts_of(batch, self._fetcher, self._engine, self._settings, mask_truncated=self._algorithm.mask_truncated)
        given = [self._given(part, len(parts)) for part in parts]
        outcomes, reward_metrics = self._outcome_rewards(batch, parts, given)
        values = [] if self._critic is None else self._critic.values(batch, self._fetcher)
        advantages = batch_advantages(batch, rewards, self._algorithm, outcomes, values, noise_return=noise_return)
        rate = self._learning_rates.at(batch.step)
        seen = PolicyLogprobs(sum(len(group.rollouts) for group in batch.groups[: self._settings.sampled_groups]))
        metrics = self._update(parts, given, advantages.per_rollout, rate, seen)
        self.learned = learned_rollouts(self._engine.gather(seen.to_bytes()), advantages.per_rollout)
        if self._critic is not None:
            metrics |= self._critic.update(batch, self._fetcher, values, advantages.value_targets)
        if self._algorithm.mask_truncated:
            metrics["masked_rollouts_ratio"] = 1 - sum(part.counts.rollouts for part in parts) / len(batch.rollouts)
        return metrics | advantages.metrics | reward_metrics | batch_metrics(batch) | {"learning_rate": rate}

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

    def _outcome_rewards(self, batch: Batch, parts: list[Part], given: list[Given]) -> tuple[Tensor, dict[str, float]]:
        """The verifier's rewards, less what comes off them (over-long penalty, KL); on every rank those of all rollouts."""
        rewards, metrics = self._less_overlong_penalties(batch)
        if not self._kl_in_reward:
            return rewards, metrics
        kept = torch.zeros_like(rewards)
        nats = torch.zeros(1, dtype=torch.float64)
        for part, known in zip(parts, given, strict=True):
            for micro, policy, reference in zip(part.batches, known.proximal or [], known.reference or [], strict=True):
                places = torch.tensor(part.places(micro), dtype=torch.int64)
                is_trained = micro.rows.is_trained
                kl = token_kl(policy.double(), reference.double(), is_trained, estimator=self._algorithm.kl_estimator)
                kept[places] = outcome_rewards_less_kl(rewards[places], kl, is_trained, coefficient=self._algorithm.kl_coefficient)
                nats += kl.sum()
        tokens = sum(part.tokens for part in parts)
        return self._engine.all_sum(kept), metrics | {"reference_kl_nats": float(self._engine.all_sum(nats)) / tokens}

    def _less_overlong_penalties(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        rewards, buffer = verifier_rewards(batch), self._algorithm.overlong_buffer
        if not buffer:
            return rewards, {}
        tokens = torch.tensor([verified.rollout.trained_tokens for verified in batch.rollouts])
        penalties = overlong_penalties(tokens, limit=self._max_response_tokens, buffer=buffer, penalty=self._algorithm.overlong_penalty)
        return rewards - penalties, {"overlong_penalty_mean": float(penalties.mean())}

    def _update(
        self, parts: list[Part], given: list[Given], advantages: list[Tensor], rate: float, seen: PolicyLogprobs
    ) -> dict[str, float]:
        totals = torch.zeros(len(self._no_sums.values()), dtype=torch.float64)
        norms: list[float] = []
        compared = Comparison(sum(sum(micro.trained_tokens) for part in parts for micro in part.batches))
        for part, known in zip(parts, given, strict=True):
            own = advantages[part.first : part.first + len(part.records)]
            sums, norm = self._optimizer_step(part, known, own, Watched(compared=compared, logprobs=seen), rate)
            totals += sums
            norms.append(norm)
        sums = self._no_sums.with_values(self._engine.all_sum(totals).tolist())
        return {
            **loss_metrics(sums, self._options, optimizer_steps=len(parts)),
            "policy_gradient_norm": sum(norms) / len(norms),
            **mismatch_metrics(self._engine.gather(compared.to_bytes())),
        }

    def _optimizer_step(self, part: Part, given: Given, advantages: list[Tensor], watched: Watched, rate: float) -> tuple[Tensor, float]:
        """The values of this rank's `PolicyLossSums`, and the gradient norm. `watched` gets the policy's log-probs before the batch."""
        totals = torch.zeros(len(self._no_sums.values()), dtype=torch.float64)

        def loss(index: int, logprobs: Tensor, entropies: Tensor) -> Tensor:
            batch, device = part.batches[index], logprobs.device
            proximal = logprobs.detach().cpu() if given.proximal is None else given.proximal[index]
            watched.compared.add(batch, proximal)
            watched.logprobs.add(part, batch, proximal)
            is_trained = batch.rows.is_trained
            result = policy_loss(
                logprobs,
                proximal.to(device),
                batch.behaviour.to(device),
                response_matrix([advantages[place] for place in batch.positions], is_trained).to(device),
                is_trained.to(device),
                part.shares(batch, self._algorithm).to(device),
                self._options,
                reference_logprobs=None if given.reference is None else given.reference[index].to(device),
                # Without a bonus the entropy is only measured: detached, it costs no backward pass.
                entropies=entropies if self._options.entropy_coefficient else entropies.detach(),
            )
            totals.add_(torch.tensor(result.sums.values(), dtype=torch.float64))
            return result.loss

        norm = self._engine.train_step(RowsOf(part.batches), loss, learning_rate=rate, entropies=True)
        return totals, norm


def loss_options(algorithm: AlgorithmSection) -> PolicyLossOptions:
    """What the settings say about the policy loss."""
    return PolicyLossOptions(
        loss=algorithm.chosen_policy_loss,
        correction=algorithm.chosen_correction,
        kl_estimator=algorithm.kl_estimator,
        kl_coefficient=algorithm.kl_coefficient if algorithm.kl_in == "loss" else 0.0,
        entropy_coefficient=algorithm.entropy_coefficient,
    )
