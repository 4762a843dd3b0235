"""GET /metrics: the gateway's own counters, and the coordinator's status as gauges."""

from oprime.ports import Metrics
from oprime_gateway.models import RunStatus

GAUGES = {
    "staleness_max": "staleness_versions",
    "mismatch_kl_nats": "mismatch_kl_nats",
    "clipped_tokens_ratio": "clipped_tokens_ratio",
    "prm_loss": "prm_loss",
    "prm_accuracy": "prm_accuracy_ratio",
    "policy_gradient_norm": "grad_norm",
}
"""Name in metrics.jsonl -> name of the metric."""


def set_run_gauges(metrics: Metrics, status: RunStatus) -> None:
    for queue in status.queues:
        metrics.gauge("queue_lag_entries", queue.waiting, stream=queue.stream)
        metrics.gauge("queue_pending_entries", queue.pending, stream=queue.stream)
        metrics.gauge("queue_oldest_seconds", queue.oldest_seconds, stream=queue.stream)
    metrics.gauge("tickets_live", status.live_groups)
    metrics.gauge("policy_version", status.step)
    for source, name in GAUGES.items():
        value = status.metrics.get(source)
        if value is not None:
            metrics.gauge(name, value)
