"""What happened between two train steps, and in the run so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from oprime.core.types import VerifiedRollout
from oprime.core.verification import OutcomeStatus
from oprime.ports import Metrics

STEP_GAUGES = {
    "prm_loss": "prm_loss",
    "prm_accuracy": "prm_accuracy_ratio",
    "policy_gradient_norm": "grad_norm",
    "mismatch_kl_nats": "mismatch_kl_nats",
    "clipped_tokens_ratio": "clipped_tokens_ratio",
    "staleness_max": "staleness_versions",
}
"""Step metrics that Prometheus shows too, under its names."""
PHASES = ("prm", "learner", "publish")
WAITS = ("prm", "learner")


@dataclass(slots=True)
class StepStatistics:
    """Sums over the rollouts that were verified since the last committed step, before the filter.

    Means are of what was sampled; the greedy baselines have a mean of their own, and count for the pace.
    """

    started_s: float
    rewards: float = 0.0
    rollouts: int = 0
    tokens: int = 0
    baseline_rewards: float = 0.0
    baselines: int = 0
    baseline_tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    decisions: Counter[str] = field(default_factory=Counter[str])
    """Groups by what was decided: `accepted`, `filtered:...`, `dropped:...`."""

    def add(self, verified: VerifiedRollout) -> None:
        self.statuses[verified.outcome.status] += 1
        if verified.outcome.status is not OutcomeStatus.ERROR:
            self.rewards += verified.outcome_reward
        self.rollouts += 1
        self.tokens += len(verified.rollout.response_ids)

    def add_baseline(self, verified: VerifiedRollout) -> None:
        self.baseline_rewards += verified.outcome_reward
        self.baselines += 1
        self.baseline_tokens += len(verified.rollout.response_ids)

    def row(self, now_s: float) -> dict[str, float]:
        seconds = max(now_s - self.started_s, 1e-9)
        return {
            "outcome_reward_mean": self.rewards / self.rollouts if self.rollouts else float("nan"),
            "response_tokens_mean": self.tokens / self.rollouts if self.rollouts else float("nan"),
            "invalid_share": self.statuses[OutcomeStatus.INVALID] / self.rollouts if self.rollouts else float("nan"),
            "tokens_per_second": (self.tokens + self.baseline_tokens) / seconds,
            "rollouts_per_second": (self.rollouts + self.baselines) / seconds,
            "seconds": seconds,
            **({"baseline_outcome_reward_mean": self.baseline_rewards / self.baselines} if self.baselines else {}),
            **{f"groups_{name.replace(':', '_')}": float(count) for name, count in sorted(self.decisions.items())},
        }


def export_step(metrics: Metrics, values: Mapping[str, float]) -> None:
    """Show a committed step's metrics to Prometheus."""
    metrics.count("train_steps_total")
    metrics.count("scored_tokens_total", values.get("trained_tokens", 0.0))
    for name, shown_as in STEP_GAUGES.items():
        if name in values:
            metrics.gauge(shown_as, values[name])
    for phase in PHASES:
        if f"seconds_{phase}" in values:
            metrics.observe("train_step_seconds", values[f"seconds_{phase}"], phase=phase)
    for stage in WAITS:
        metrics.count("wait_seconds_total", values.get(f"wait_s_{stage}", 0.0), **{"for": stage})
