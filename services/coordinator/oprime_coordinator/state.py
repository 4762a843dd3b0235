"""The coordinator's durable state: a few numbers, saved with each commit that changes them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from oprime.core.types import VerifiedRollout

STATE = "coordinator/state"
"""Name of the value in the queue."""

PRIOR_DECISIONS = 8.0
PRIOR_ACCEPTANCE = 0.5
MEMORY_DECISIONS = 256.0
LEAST_ACCEPTANCE = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorState:
    next_group_id: int = 0
    next_step: int = 1
    """The batch to cut next."""
    committed_step: int = 0
    accepted: float = PRIOR_DECISIONS * PRIOR_ACCEPTANCE
    """Recent accepted groups, with exponential forgetting."""
    decided: float = PRIOR_DECISIONS
    """Recent decided groups, with exponential forgetting."""
    rollouts: int = 0
    """Verified rollouts so far."""
    tokens: int = 0
    """Response tokens of verified rollouts so far."""
    passed_over: int = 0
    """Groups below `next_group_id` that were never issued, because their prompt cannot be sampled from."""

    @property
    def acceptance_rate(self) -> float:
        return max(self.accepted / self.decided, LEAST_ACCEPTANCE)

    def after_decision(self, *, accepted: bool) -> Self:
        keep = 1 - 1 / MEMORY_DECISIONS if self.decided >= MEMORY_DECISIONS else 1.0
        return replace(self, accepted=self.accepted * keep + accepted, decided=self.decided * keep + 1)

    def after_rollouts(self, rollouts: Sequence[VerifiedRollout]) -> Self:
        """Count rollouts whose fate is decided; in the same commit that decides it, so that none counts twice."""
        tokens = sum(verified.rollout.trained_tokens for verified in rollouts)
        return replace(self, rollouts=self.rollouts + len(rollouts), tokens=self.tokens + tokens)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(**json.loads(data))


def batch_value(step: int) -> str:
    """Name of the value that lists the groups of a cut batch until its step is committed."""
    return f"batch/{step:08d}"


def row_value(step: int) -> str:
    """Name of the value that keeps a committed step's metrics until the next one's: a coordinator may die before it writes them."""
    return f"row/{step:08d}"
