"""Learning rate by train step."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRates:
    """Grow linearly to `peak`, reached at step `warmup_steps`. The step after that has `peak` too; from there `linear` and `cosine` fall to
    `min_ratio * peak`, reached when step `total_steps` is done, and stay there."""

    peak: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    total_steps: int
    min_ratio: float

    def at(self, step: int) -> float:
        """Learning rate of train step `step`; steps count from 1. Raises ValueError for a step below 1."""
        if step < 1:
            raise ValueError(f"step ({step}) must be positive: train steps count from 1")
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if self.schedule == "constant":
            return self.peak
        progress = min(1.0, (step - 1 - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        left = 1 - progress if self.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * left)
