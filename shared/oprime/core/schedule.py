"""Learning rate by train step."""

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    schedule: Literal["constant", "linear", "cosine"],
    warmup_steps: int,
    total_steps: int,
    min_ratio: float,
) -> float:
    """Learning rate of train step `step`; steps count from 1.

    It grows linearly to `peak`, reached at step `warmup_steps`. The step after that has `peak` too; from there `linear`
    and `cosine` fall to `min_ratio * peak`, reached when step `total_steps` is done, and stay there. Raises ValueError
    for a step below 1.
    """
    if step < 1:
        raise ValueError(f"step ({step}) must be positive: train steps count from 1")
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - 1 - warmup_steps) / max(1, total_steps - warmup_steps))
    left = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (min_ratio + (1 - min_ratio) * left)
