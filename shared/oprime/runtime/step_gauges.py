"""Which numbers of a train step Prometheus shows, under which names, and whose they are."""

from collections.abc import Mapping

from oprime.ports import Metrics

OF_PRM = {
    "prm_loss": "prm_loss",
    "prm_accuracy": "prm_accuracy_ratio",
    "prm_reward_noise_nats": "prm_reward_noise_nats",
    "prm_reward_signal_to_noise": "prm_reward_signal_to_noise_ratio",
}
OF_LEARNER = {
    "policy_loss": "policy_loss",
    "policy_entropy_nats": "policy_entropy_nats",
    "policy_gradient_norm": "grad_norm",
    "mismatch_kl_nats": "mismatch_kl_nats",
    "clipped_tokens_ratio": "clipped_tokens_ratio",
    "staleness_max": "staleness_versions",
}
OF_RUN = {
    "outcome_reward_mean": "outcome_reward_mean",
    "acceptance_rate": "acceptance_ratio",
    "response_tokens_mean": "response_tokens_mean",
}
"""What the coordinator knows. Each: name in metrics.jsonl -> name of the metric."""


def show_step(metrics: Metrics, gauges: Mapping[str, str], values: Mapping[str, float | None]) -> None:
    """Set the gauges of which `values` has a number."""
    for name, shown_as in gauges.items():
        value = values.get(name)
        if value is not None:
            metrics.gauge(shown_as, value)
