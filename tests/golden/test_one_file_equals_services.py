"""The trainers of PRM and learner, without their processes, compute what the single-process script computes."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from golden import prime_in_one_file as one_file
from oprime.core.types import Batch, FinishReason, Rollout, VerifiedGroup, VerifiedRollout, WeightVersionSpan, sampled, untrained
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import CriticSection, LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_prm.app import sampled_with
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from plain_engine import PlainEngine
from rollouts import CONTENTS, Emitted, content, of_segments, single_turn, written
from tiny_models import batch_of, tiny_model

STEPS = 2
LEARNING_RATE = 1e-3
ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic."""

ESTIMATORS = ("rloo", "reinforce", "grpo", "remax", "prm_value")
COMBINATIONS = [
    *({"estimator": estimator, "process_weight": weight} for estimator in ESTIMATORS for weight in (1.0, 0.0)),
    *({"prm_update": mode} for mode in ("single_forward", "reverse")),
    {"prm_update": "reverse", "prm_loss": "dpo"},
    {"reference": "policy"},
    {"reference": "policy", "prm_update": "offline", "estimator": "grpo"},
    *({"estimator": "ppo", "process_weight": weight, "trace_decay": decay} for weight in (1.0, 0.0) for decay in (1.0, 0.9)),
    {"estimator": "remax", "reference": "policy", "prm_update": "single_forward"},
    {"estimator": "remax", "prm_update": "reverse", "prm_loss": "dpo"},
    {"temperature": 0.7},
]
AFTER_PRIME = [
    {"policy_loss": "gspo"},
    {"mask_truncated": True, "aggregation": "sequences", "overlong_buffer": 3, "overlong_penalty": 0.5, "max_response_tokens": 6},
    {"estimator": "prefix_baseline", "prm_loss": "prefix_value", "beta": 10.0},
    {"correction": "geometric_band", "rejection": (0.9, 1.1)},
    {"correction": "sequence_band", "rejection": (0.7, 1.3)},
    {"estimator": "grpo", "divide_by_std": False, "whiten": False, "aggregation": "constant", "constant_tokens": 16},
    {"estimator": "reinforce_baseline"},
    {"process_credit": "min", "credit_temperature": 0.02},
    {"estimator": "grpo", "standardised": "tokens", "process_discount": 0.9, "process_weight": 0.05},
]


Form = Callable[[Rollout, npt.NDArray[np.floating]], Rollout]
"""Lays a rollout's tokens out with new log-probs."""


def rollouts_of(batch: Batch) -> list[one_file.Rollout]:
    return [rollout_of(verified, group.baseline) for group in batch.groups for verified in group.rollouts]


def rollout_of(verified: VerifiedRollout, baseline: VerifiedRollout | None = None) -> one_file.Rollout:
    rollout = content(verified)
    start = len(rollout.prompt_ids)
    return one_file.Rollout(
        group=rollout.group_id,
        prompt=rollout.prompt_ids.tolist(),
        response=rollout.token_ids[start:].tolist(),
        mask=rollout.is_trained[start:].tolist(),
        behaviour_logprobs=torch.from_numpy(rollout.behaviour_logprobs),
        outcome=verified.outcome_reward,
        truncated=verified.rollout.finish_reason is FinishReason.LENGTH,
        greedy=None if baseline is None else rollout_of(baseline),
    )


def in_turns(rollout: Rollout, logprobs: npt.NDArray[np.floating]) -> Rollout:
    """The same tokens with these log-probs, in two turns between which others wrote something, and something after the last."""
    ids, middle = rollout.trained_ids, len(rollout.trained_ids) // 2
    first, last = sampled(
        ids, logprobs, [WeightVersionSpan(start=0, end=middle, version=0), WeightVersionSpan(start=middle, end=len(ids), version=0)]
    )
    between, after = untrained([9, 10, 11]), untrained([12])
    turns = (first, between, last, after) if middle else (last, after)
    return of_segments(rollout.group_id, rollout.index, (untrained(rollout.prompt_ids), *turns))


def in_one_turn(rollout: Rollout, logprobs: npt.NDArray[np.floating]) -> Rollout:
    return single_turn(rollout.group_id, rollout.index, rollout.prompt_ids, rollout.trained_ids, logprobs=logprobs)


def batch_from_the_model(step: int, *, temperature: float, baselines: bool, truncated: bool, form: Form) -> Batch:
    """A batch whose behaviour log-probs are near those of the model, so that ratios are near 1. With `truncated`, one response of each
    group was cut."""
    model, dice = tiny_model(), np.random.default_rng(step)

    def near(verified: VerifiedRollout) -> VerifiedRollout:
        rollout = content(verified)
        laid_out = replace(verified, rollout=written(form(rollout, rollout.behaviour_logprobs)))
        with torch.no_grad():
            logprobs = one_file.token_logprobs(model, rollout_of(laid_out), temperature).numpy()
        noisy = (logprobs + dice.normal(0, 0.3, len(logprobs))).astype(np.float32)
        cut = truncated and rollout.index == 1
        return replace(
            verified, rollout=written(replace(form(rollout, noisy), finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP))
        )

    return Batch(
        step=step,
        groups=tuple(
            VerifiedGroup(
                group_id=group.group_id,
                rollouts=tuple(near(one) for one in group.rollouts),
                baseline=group.baseline and near(group.baseline),
            )
            for group in batch_of(step, baselines=baselines).groups
        ),
    )


def plain_engine(*, gradient_clip: float, temperature: float = 1.0) -> PlainEngine:
    model = TokenLogprobModel(tiny_model(), chunk_tokens=7, temperature=temperature)
    return PlainEngine(model, gradient_clip=gradient_clip, adam_eps=ADAM_EPS)


class OneFile:
    """The script's models, without its sampling."""

    def __init__(self, settings: one_file.Settings) -> None:
        self.settings = settings
        self.policy = tiny_model()
        self.prm, self.reference = copy.deepcopy(self.policy), copy.deepcopy(self.policy).requires_grad_(False)
        self.critic = one_file.Critic(self.policy)
        self.optimizers = {
            model: torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, eps=ADAM_EPS, weight_decay=0.0)
            for model in (self.policy, self.prm, self.critic)
        }

    def process(self, batch: Batch) -> None:
        rollouts = rollouts_of(batch)
        rewards = one_file.process_rewards_of_batch(self.settings, self.prm, self.optimizers[self.prm], self.reference, rollouts)
        one_file.update(
            self.settings, (self.policy, self.optimizers[self.policy]), (self.critic, self.optimizers[self.critic]), rollouts, rewards
        )


class Services:
    """The trainers of PRM and learner."""

    def __init__(self, settings: one_file.Settings) -> None:
        self.policy = plain_engine(gradient_clip=1.0, temperature=settings.temperature)
        self.prm = plain_engine(gradient_clip=10.0)
        self.critic = PlainEngine(TokenValueModel(tiny_model()), adam_eps=ADAM_EPS)
        section = PrmSection.model_validate(
            {"learning_rate": LEARNING_RATE, "beta": settings.beta, "update": settings.prm_update, "loss": settings.prm_loss}
            | {"reference": settings.reference, "micro_batch_rollouts": 5}
        )
        frozen = FrozenModel(tiny_model(), chunk_tokens=7)
        reference = (lambda micro: frozen.logprobs(micro.rows)) if settings.reference == "sft" else sampled_with
        self._prm_trainer = ImplicitPrm(self.prm, CONTENTS, reference, section, pad_id=0, total_steps=STEPS)
        algorithm = AlgorithmSection.model_validate(
            {"estimator": settings.estimator, "process_weight": settings.process_weight, "trace_decay": settings.trace_decay}
            | {"policy_loss": settings.policy_loss, "divide_by_std": settings.divide_by_std, "whiten_advantages": settings.whiten}
            | {"aggregation": settings.aggregation, "constant_tokens": settings.constant_tokens}
            | {"overlong_buffer": settings.overlong_buffer, "overlong_penalty": settings.overlong_penalty}
            | {"mask_truncated": settings.mask_truncated, "correction": settings.correction}
            | {"process_credit": settings.process_credit, "credit_temperature": settings.credit_temperature}
            | {"standardised": settings.standardised, "process_discount": settings.process_discount}
            | {"process_normalisation": "none" if settings.estimator == "prefix_baseline" else "batch_norm"}
            | rejection_of(settings)
        )
        critic_section = CriticSection(learning_rate=LEARNING_RATE, micro_batch_rollouts=3)
        critic = CriticTrainer(self.critic, algorithm, critic_section, total_steps=STEPS) if algorithm.needs_critic else None
        learner = LearnerSection(learning_rate=LEARNING_RATE, micro_batch_rollouts=5)
        self._learner = PolicyTrainer(
            self.policy,
            algorithm,
            learner,
            CONTENTS,
            pad_id=0,
            total_steps=STEPS,
            critic=critic,
            max_response_tokens=settings.max_response_tokens,
        )

    def process(self, batch: Batch) -> None:
        emitted = Emitted()
        self._prm_trainer.process(batch, emitted)
        self._learner.process(batch, emitted.of(batch))


def rejection_of(settings: one_file.Settings) -> dict[str, float]:
    kind = settings.correction.partition("_")[0]
    return {} if kind == "token" else {f"{kind}_low": settings.rejection[0], f"{kind}_high": settings.rejection[1]}


def named(changes: dict[str, object]) -> str:
    return " ".join(map(str, changes.values()))


@pytest.mark.parametrize("changes", [*COMBINATIONS, *AFTER_PRIME], ids=named)
def test_weights_after_two_steps_agree(changes: dict[str, object]) -> None:
    assert_weights_agree(changes, in_one_turn)


@pytest.mark.parametrize("changes", [*COMBINATIONS[:10:2], *COMBINATIONS[10:], *AFTER_PRIME[:4]], ids=named)
def test_weights_agree_where_others_wrote_between_the_turns(changes: dict[str, object]) -> None:
    assert_weights_agree(changes, in_turns)


def assert_weights_agree(changes: dict[str, object], form: Form) -> None:
    settings = one_file.Settings(policy_learning_rate=LEARNING_RATE, prm_learning_rate=LEARNING_RATE, **changes)  # pyright: ignore[reportArgumentType]
    script, services = OneFile(settings), Services(settings)
    for step in range(1, STEPS + 1):
        batch = batch_from_the_model(
            step, temperature=settings.temperature, baselines=settings.estimator == "remax", truncated=settings.mask_truncated, form=form
        )
        script.process(batch)
        services.process(batch)

    start = OneFile(settings)
    trains = {"policy": True, "prm": settings.prm_update != "offline", "critic": settings.estimator == "ppo"}
    for name, does in trains.items():
        ours = dict(getattr(services, name).weights())
        theirs, before = (dict(getattr(loop, name).named_parameters()) for loop in (script, start))
        apart = {key: float((ours[key] - parameter.detach()).abs().max()) for key, parameter in theirs.items()}
        assert max(apart.values()) < 1e-5, f"{name}: {apart}"
        moved = max(float((ours[key] - before[key].detach()).abs().max()) for key in before)
        assert (moved > 1e-4) == does, name
