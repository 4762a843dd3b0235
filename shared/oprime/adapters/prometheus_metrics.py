"""Metrics for Prometheus. Every metric of oprime is declared in the table below; no other name is accepted.

All names get the prefix `oprime_`; counters end in `_total`. Label values come from small closed sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import EndpointsSection

PREFIX = "oprime_"
TOTAL = "_total"

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of histogram buckets for durations."""


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    name: str
    """Without prefix and `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


METRICS: tuple[MetricDefinition, ...] = (
    MetricDefinition("queue_lag_entries", "gauge", "Entries of a stream that nobody has taken yet.", ("stream",)),
    MetricDefinition("queue_pending_entries", "gauge", "Entries of a stream on loan to a worker.", ("stream",)),
    MetricDefinition("queue_oldest_seconds", "gauge", "Age of the oldest entry of a stream.", ("stream",)),
    MetricDefinition("queue_redeliveries", "counter", "Entries that were delivered again after a lease ran out.", ("stream",)),
    MetricDefinition("queue_dead_letters", "counter", "Entries that were set aside for a person.", ("stream",)),
    MetricDefinition("tickets_live", "gauge", "Groups that were issued and are neither trained, filtered, dropped nor dead."),
    MetricDefinition("groups_filtered", "counter", "Groups that the online prompt filter left out.", ("reason",)),
    MetricDefinition("groups_dropped", "counter", "Groups that could not be used.", ("reason",)),
    MetricDefinition("rollouts", "counter", "Responses that were sampled to their end.", ("finish_reason",)),
    MetricDefinition("generated_tokens", "counter", "Response tokens that were sampled."),
    MetricDefinition("policy_version", "gauge", "Weight version of the policy that this process uses."),
    MetricDefinition("weight_follow_seconds", "histogram", "Time to follow a published weight version.", ("phase",)),
    MetricDefinition("weights_refused", "counter", "Published weight versions that could not be loaded."),
    MetricDefinition("verifications", "counter", "Responses that were judged, by verdict.", ("verifier", "outcome")),
    MetricDefinition("verification_seconds", "histogram", "Time to judge one response.", ("verifier",)),
    MetricDefinition("verifier_ready_workers", "gauge", "Verifier processes that are ready to judge."),
    MetricDefinition("sandbox_violations", "counter", "Programs that tried what the sandbox forbids, or to cheat the judge.", ("kind",)),
    MetricDefinition("sandbox_layer_active", "gauge", "Whether a layer of the sandbox works here, 0 or 1.", ("layer",)),
    MetricDefinition("sandbox_probe_blocked", "gauge", "Whether the self-test's way out was blocked, 0 or 1.", ("probe",)),
    MetricDefinition("prm_version", "gauge", "Version of the implicit PRM."),
    MetricDefinition("prm_loss", "gauge", "Loss of the last PRM update, nats per rollout."),
    MetricDefinition("prm_accuracy_ratio", "gauge", "Rollouts of the last batch whose outcome the PRM predicted, 0 to 1."),
    MetricDefinition("scored_tokens", "counter", "Response tokens that got a process reward."),
    MetricDefinition("train_steps", "counter", "Train steps that were committed."),
    MetricDefinition("train_step_seconds", "histogram", "Time of one train step.", ("phase",)),
    MetricDefinition("grad_norm", "gauge", "Gradient norm of the last train step, before clipping."),
    MetricDefinition("mismatch_kl_nats", "gauge", "Estimated KL between sampler and learner log-probs at the last train step."),
    MetricDefinition("clipped_tokens_ratio", "gauge", "Response tokens of the last train step that the policy clip cut, 0 to 1."),
    MetricDefinition("staleness_versions", "gauge", "Largest staleness among the rollouts of the last train step."),
    MetricDefinition("last_step_timestamp_seconds", "gauge", "Unix time of the last committed train step."),
    MetricDefinition("http_requests", "counter", "HTTP requests that the gateway answered.", ("route", "status")),
    MetricDefinition("http_request_seconds", "histogram", "Time to answer an HTTP request.", ("route",)),
    MetricDefinition("wait_seconds", "counter", "Time spent waiting for work or weights.", ("for",)),
)


class PrometheusMetrics:
    """The Metrics port. Each instance has a registry of its own; series appear with their first value, unlabelled ones at 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._definitions = {definition.name: definition for definition in METRICS}
        for definition in METRICS:
            self._register(definition)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter, named with or without its `_total`."""
        definition = self._defined(name.removesuffix(TOTAL), "counter", labels)
        counter = self._counters[definition.name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        gauge = self._gauges[self._defined(name, "gauge", labels).name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        histogram = self._histograms[self._defined(name, "histogram", labels).name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    @classmethod
    def at(cls, endpoints: EndpointsSection) -> Self:
        """Metrics that answer scrapes where the settings say."""
        metrics = cls()
        if endpoints.metrics_port:
            metrics.serve(endpoints.metrics_interface, endpoints.metrics_port)
        return metrics

    def serve(self, interface: str, port: int) -> None:
        """Answer scrapes of /metrics in a thread of its own. Raises SettingsError when the port is taken."""
        try:
            start_http_server(port, addr=interface, registry=self.registry)
        except OSError as error:
            raise SettingsError(
                f"endpoints.metrics_port ({port}) cannot be used on {interface}: {error.strerror}; choose another"
            ) from error

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus scrapes, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _register(self, definition: MetricDefinition) -> None:
        name, text, labels = PREFIX + definition.name, definition.help, definition.labels
        if definition.kind == "counter":
            self._counters[definition.name] = Counter(name, text, labels, registry=self.registry)
        elif definition.kind == "gauge":
            self._gauges[definition.name] = Gauge(name, text, labels, registry=self.registry)
        else:
            self._histograms[definition.name] = Histogram(name, text, labels, registry=self.registry, buckets=SECONDS)

    def _defined(self, name: str, kind: Kind, labels: Mapping[str, str]) -> MetricDefinition:
        definition = self._definitions.get(name)
        if definition is None:
            raise ValueError(f"unknown metric {name!r}: declare it in oprime.adapters.prometheus_metrics.METRICS")
        if definition.kind != kind:
            raise ValueError(f"metric {name!r} is a {definition.kind}, not a {kind}")
        if set(labels) != set(definition.labels):
            raise ValueError(f"metric {name!r} has labels ({', '.join(definition.labels)}), given: ({', '.join(sorted(labels))})")
        return definition
