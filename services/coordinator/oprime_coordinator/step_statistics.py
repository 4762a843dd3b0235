"""What happened between two train steps, and in the run so far."""

from collections import Counter
from dataclasses import dataclass, field

from oprime.core.types import OutcomeStatus, VerifiedRollout


@dataclass(slots=True)
class StepStatistics:
    """Sums over the rollouts that were verified since the last committed step, before the filter."""

    started_s: float
    rewards: float = 0.0
    rollouts: int = 0
    tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    decisions: Counter[str] = field(default_factory=Counter[str])
    """Groups by what was decided: `accepted`, `filtered:...`, `dropped:...`."""

    def add(self, verified: VerifiedRollout) -> None:
        self.statuses[verified.outcome.status] += 1
        if verified.outcome.status is not OutcomeStatus.ERROR:
            self.rewards += verified.outcome_reward
        self.rollouts += 1
        self.tokens += len(verified.rollout.response_ids)

    def row(self, now_s: float) -> dict[str, float]:
        seconds = max(now_s - self.started_s, 1e-9)
        return {
            "outcome_reward_mean": self.rewards / self.rollouts if self.rollouts else float("nan"),
            "response_tokens_mean": self.tokens / self.rollouts if self.rollouts else float("nan"),
            "invalid_share": self.statuses[OutcomeStatus.INVALID] / self.rollouts if self.rollouts else float("nan"),
            "tokens_per_second": self.tokens / seconds,
            "rollouts_per_second": self.rollouts / seconds,
            "seconds": seconds,
            **{f"groups_{name.replace(':', '_')}": float(count) for name, count in sorted(self.decisions.items())},
        }
