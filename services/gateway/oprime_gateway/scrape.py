"""GET /metrics beside the API: the gateway's own counters, and the coordinator's status as gauges, as far as it is known now."""

from oprime.ports import Metrics
from oprime.runtime.step_gauges import OF_LEARNER, OF_PRM, OF_RUN, show_step
from oprime_gateway.models import RunStatus


def set_run_gauges(metrics: Metrics, status: RunStatus) -> None:
    for queue in status.queues:
        metrics.gauge("queue_lag_entries", queue.waiting, stream=queue.stream)
        metrics.gauge("queue_pending_entries", queue.pending, stream=queue.stream)
        metrics.gauge("queue_oldest_seconds", queue.oldest_seconds, stream=queue.stream)
    metrics.gauge("tickets_live", status.live_groups)
    metrics.gauge("committed_step", status.step)
    metrics.gauge("planned_steps", status.total_steps)
    for gauges in (OF_RUN, OF_PRM, OF_LEARNER):
        show_step(metrics, gauges, status.metrics)
