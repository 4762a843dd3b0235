"""PPO on a tiny policy and critic: what a DeepSpeed worker and the plain engines must agree on."""

from typing import Any

import numpy as np

from oprime.core.types import Batch, ProcessRewards
from oprime.runtime.settings import AlgorithmSection
from tiny_models import batch_of

STAGES = (0, 1, 2, 3)
ALGORITHM = AlgorithmSection.model_validate({"estimator": "ppo", "trace_decay": 0.9})
# Some gradients are 0 but for rounding; a large epsilon keeps AdamW from amplifying that.
SECTION: dict[str, Any] = {"learning_rate": 1e-3, "adam_eps": 1e-3, "updates_per_batch": 3}


def batch(step: int) -> tuple[Batch, ProcessRewards]:
    """Right rollouts get +0.1 per token, wrong ones -0.1."""
    made = batch_of(step)
    rewards = [np.full(one.rollout.trained_tokens, 0.2 * one.outcome_reward - 0.1, dtype=np.float32) for one in made.rollouts]
    return made, ProcessRewards(rollouts=rewards)
