"""The trainers of PRM and learner, without their processes, compute what the single-process script computes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from golden import prime_in_one_file as one_file
from oprime.core.types import Batch, ScoredBatch, VerifiedGroup, VerifiedRollout
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from plain_engine import PlainEngine
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
    {"estimator": "remax", "reference": "policy", "prm_update": "single_forward"},
    {"estimator": "remax", "prm_update": "reverse", "prm_loss": "dpo"},
]


def rollouts_of(batch: Batch) -> list[one_file.Rollout]:
    return [rollout_of(verified, group.baseline) for group in batch.groups for verified in group.rollouts]


def rollout_of(verified: VerifiedRollout, baseline: VerifiedRollout | None = None) -> one_file.Rollout:
    rollout = verified.rollout
    return one_file.Rollout(
        group=rollout.group_id,
        prompt=rollout.prompt_ids.tolist(),
        response=rollout.response_ids.tolist(),
        behaviour_logprobs=torch.from_numpy(rollout.behaviour_logprobs),
        outcome=verified.outcome_reward,
        truncated=False,
        greedy=None if baseline is None else rollout_of(baseline),
    )


def batch_from_the_model(step: int, *, baselines: bool) -> Batch:
    """A batch whose behaviour log-probs are near those of the model, so that ratios are near 1."""
    model, dice = tiny_model(), np.random.default_rng(step)

    def sampled(verified: VerifiedRollout) -> VerifiedRollout:
        with torch.no_grad():
            logprobs = one_file.token_logprobs(model, rollout_of(verified)).numpy()
        noisy = (logprobs + dice.normal(0, 0.3, len(logprobs))).astype(np.float32)
        return replace(verified, rollout=replace(verified.rollout, behaviour_logprobs=noisy))

    return Batch(
        step=step,
        groups=tuple(
            VerifiedGroup(
                group_id=group.group_id,
                rollouts=tuple(sampled(one) for one in group.rollouts),
                baseline=group.baseline and sampled(group.baseline),
            )
            for group in batch_of(step, baselines=baselines).groups
        ),
    )


def plain_engine(*, gradient_clip: float) -> PlainEngine:
    return PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), gradient_clip=gradient_clip, adam_eps=ADAM_EPS)


@pytest.mark.parametrize("changes", COMBINATIONS, ids=lambda changes: " ".join(map(str, changes.values())))
def test_weights_after_two_steps_agree(changes: dict[str, object]) -> None:
    settings = one_file.Settings(policy_learning_rate=LEARNING_RATE, prm_learning_rate=LEARNING_RATE, **changes)  # pyright: ignore[reportArgumentType]
    policy = tiny_model()
    prm, reference = copy.deepcopy(policy), copy.deepcopy(policy).requires_grad_(False)
    policy_optimizer, prm_optimizer = (
        torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, eps=ADAM_EPS, weight_decay=0.0) for model in (policy, prm)
    )

    learner_engine, prm_engine = plain_engine(gradient_clip=1.0), plain_engine(gradient_clip=10.0)
    section = PrmSection.model_validate(
        {"learning_rate": LEARNING_RATE, "beta": settings.beta, "update": settings.prm_update, "loss": settings.prm_loss}
        | {"reference": settings.reference, "micro_batch_rollouts": 5}
    )
    frozen = FrozenModel(tiny_model(), chunk_tokens=7) if settings.reference == "sft" else None
    service_prm = ImplicitPrm(prm_engine, frozen, section, pad_id=0, total_steps=STEPS)
    algorithm = AlgorithmSection.model_validate({"estimator": settings.estimator, "process_weight": settings.process_weight})
    learner = LearnerSection(learning_rate=LEARNING_RATE, micro_batch_rollouts=5)
    trainer = PolicyTrainer(learner_engine, algorithm, learner, pad_id=0, total_steps=STEPS)

    for step in range(1, STEPS + 1):
        batch = batch_from_the_model(step, baselines=settings.estimator == "remax")
        rollouts = rollouts_of(batch)
        rewards = one_file.process_rewards_of_batch(settings, prm, prm_optimizer, reference, rollouts)
        one_file.update_policy(settings, policy, policy_optimizer, rollouts, one_file.advantages(settings, rollouts, rewards))
        scored = service_prm.process(batch)
        trainer.process(
            ScoredBatch(
                batch=batch,
                process_rewards=scored.process_rewards,
                prm_version=scored.prm_version,
                baseline_process_rewards=scored.baseline_process_rewards,
            )
        )

    start = dict(tiny_model().named_parameters())
    for engine, model in ((learner_engine, policy), (prm_engine, prm)):
        ours = dict(engine.weights())
        apart = {name: float((ours[name] - parameter.detach()).abs().max()) for name, parameter in model.named_parameters()}
        assert max(apart.values()) < 1e-5, apart
        moved = max(float((ours[name] - start[name].detach()).abs().max()) for name in start)
        assert moved > 1e-4 or (model is prm and settings.prm_update == "offline")
