"""Metrics for Prometheus. Every metric of oprime is declared in the table below; no other name is accepted.

All names get the prefix `oprime_`; counters end in `_total`. Label values come from small closed sets.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

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


RUN, SERVICE = "run", "service"
"""Labels that every series of a service carries, besides its own."""

SHOWN_BY: Mapping[tuple[str, ...], tuple[MetricDefinition, ...]] = {
    ("coordinator",): (
        MetricDefinition("run_state", "gauge", "What the run is doing: 1 for that state, 0 for the others.", ("state",)),
        MetricDefinition("planned_steps", "gauge", "Train steps of the whole run (run.steps)."),
        MetricDefinition("committed_step", "gauge", "The last train step that was committed."),
        MetricDefinition("train_steps", "counter", "Train steps that were committed."),
        MetricDefinition(
            "last_step_timestamp_seconds", "gauge", "Unix time of the last committed train step; of the start before there is one."
        ),
        MetricDefinition("stalled", "gauge", "1 while nothing has moved for coordinator.stall_s, else 0."),
        MetricDefinition(
            "busy_ratio", "gauge", "Share of the last step's time that a stage was at work, mean over replicas, 0 to 1.", ("stage",)
        ),
        MetricDefinition("bottleneck", "gauge", "1 for the stage that the others wait for, 0 for the others.", ("stage",)),
        MetricDefinition("staleness_bound", "gauge", "S, the versions that a trained rollout may be behind (staleness.max_staleness)."),
        MetricDefinition("outcome_reward_mean", "gauge", "Mean outcome reward of the rollouts that were sampled for the last step."),
        MetricDefinition("acceptance_ratio", "gauge", "Groups of the last step that passed the prompt filter, 0 to 1."),
        MetricDefinition("response_tokens_mean", "gauge", "Mean length of the responses that were sampled for the last step."),
        MetricDefinition("benchmark_accuracy_ratio", "gauge", "avg@n of the last evaluation on a benchmark, 0 to 1.", ("benchmark",)),
        MetricDefinition("heldout_accuracy_ratio", "gauge", "Accuracy of the last evaluation, 0 to 1.", ("sampling",)),
        MetricDefinition("queue_lag_entries", "gauge", "Entries of a stream that nobody has taken yet.", ("stream",)),
        MetricDefinition("queue_pending_entries", "gauge", "Entries of a stream on loan to a worker.", ("stream",)),
        MetricDefinition("queue_oldest_seconds", "gauge", "Age of the oldest entry of a stream.", ("stream",)),
        MetricDefinition("queue_dead_letters", "counter", "Entries that were set aside for a person.", ("stream",)),
        MetricDefinition("tickets_live", "gauge", "Groups that were issued and are neither trained, filtered, dropped nor dead."),
        MetricDefinition("ledger_rollouts", "gauge", "Rollouts of the run by state, as the ledger counts them.", ("state",)),
        MetricDefinition("groups_filtered", "counter", "Groups that the online prompt filter left out.", ("reason",)),
        MetricDefinition("groups_dropped", "counter", "Groups that could not be used.", ("reason",)),
        MetricDefinition(
            "decided_rollouts",
            "counter",
            "Rollouts of committed steps, and those refused before them, by what became of them and by length (powers of two).",
            ("fate", "up_to_tokens"),
        ),
        MetricDefinition("payloads_stored", "gauge", "Payloads in their store at the last look, one a minute."),
        MetricDefinition("payloads_orphaned", "counter", "Payloads that nobody would ever have asked for again, and that were removed."),
    ),
    ("generator", "verifier", "prm", "scorer", "learner"): (
        MetricDefinition("busy_seconds", "counter", "Time with at least one piece of work under way."),
        MetricDefinition("idle_seconds", "counter", "Time without any work."),
    ),
    ("generator", "verifier"): (
        MetricDefinition("queue_redeliveries", "counter", "Entries that were delivered again after a lease ran out.", ("stream",)),
    ),
    ("generator", "prm", "learner"): (MetricDefinition("wait_seconds", "counter", "Time spent waiting for work or weights.", ("for",)),),
    ("generator",): (
        MetricDefinition("rollouts", "counter", "Responses that were sampled to their end.", ("finish_reason",)),
        MetricDefinition("generated_tokens", "counter", "Response tokens that were sampled."),
        MetricDefinition("prompt_tokens", "counter", "Tokens of the prompts of responses that were sampled to their end."),
        MetricDefinition("cached_prompt_tokens", "counter", "Those of them that were not computed again, since a sibling had been there."),
        MetricDefinition("running_rollouts", "gauge", "Responses that are being sampled."),
        MetricDefinition("policy_version", "gauge", "Weight version of the policy that this process uses."),
        MetricDefinition("weight_follow_seconds", "histogram", "Time to follow a published weight version.", ("phase",)),
        MetricDefinition("weights_refused", "counter", "Published weight versions that could not be loaded."),
    ),
    ("verifier",): (
        MetricDefinition("verifications", "counter", "Responses that were judged, by verdict.", ("verifier", "outcome")),
        MetricDefinition(
            "verification_seconds", "histogram", "Time to judge one response, without the wait for a free worker.", ("verifier",)
        ),
        MetricDefinition("verifier_ready_workers", "gauge", "Verifier processes that are ready to judge."),
        MetricDefinition("verifier_held_rollouts", "gauge", "Rollouts that wait for a verifier that is out."),
        MetricDefinition("sandbox_violations", "counter", "Programs that tried what is forbidden, or to cheat the judge.", ("kind",)),
        MetricDefinition("sandbox_layer_active", "gauge", "Whether a layer of the sandbox works here, 0 or 1.", ("layer",)),
        MetricDefinition("sandbox_probe_blocked", "gauge", "Whether the self-test's way out was blocked, 0 or 1.", ("probe",)),
    ),
    ("prm", "learner"): (MetricDefinition("train_step_seconds", "histogram", "Time of one train step.", ("phase",)),),
    ("prm", "scorer"): (
        MetricDefinition("prm_version", "gauge", "Version of the implicit PRM; of a scorer, the one that answers where none is named."),
        MetricDefinition(
            "score_requests",
            "counter",
            "Requests for token rewards: scored; refused (too much, too busy, no such version); failed; abandoned by who asked.",
            ("outcome",),
        ),
        MetricDefinition(
            "score_seconds", "histogram", "Time from a request for token rewards to its answer, by version: newest, or named.", ("version",)
        ),
        MetricDefinition("score_waiting_requests", "gauge", "Requests that wait for a forward pass."),
        MetricDefinition("score_waiting_tokens", "gauge", "Tokens of these requests, each response with its prompt."),
        MetricDefinition("score_pass_seconds", "histogram", "Time of one forward pass of PRM and reference, for all requests in it."),
        MetricDefinition("score_pass_requests", "counter", "Requests in forward passes; a long one has a part in several."),
        MetricDefinition("score_pass_tokens", "counter", "Tokens of forward passes, a shared prompt once."),
    ),
    ("prm",): (
        MetricDefinition("prm_loss", "gauge", "Loss of the last PRM update, nats per rollout."),
        MetricDefinition("prm_accuracy_ratio", "gauge", "Rollouts of the last batch whose outcome the PRM predicted, 0 to 1."),
        MetricDefinition("prm_reward_noise_nats", "gauge", "Rounding of a token's log-ratio, as last measured, root mean square."),
        MetricDefinition("prm_reward_signal_to_noise_ratio", "gauge", "Exact log-ratios by their rounding, as last measured."),
        MetricDefinition("scored_tokens", "counter", "Response tokens that got a process reward."),
    ),
    ("learner",): (
        MetricDefinition("published_version", "gauge", "Newest weight version of the policy that the learner published."),
        MetricDefinition("trained_tokens", "counter", "Response tokens that the policy was trained on."),
        MetricDefinition("policy_loss", "gauge", "Policy loss of the last train step."),
        MetricDefinition("policy_entropy_nats", "gauge", "Mean entropy of the policy over the tokens of the last train step."),
        MetricDefinition("grad_norm", "gauge", "Gradient norm of the last train step, before clipping."),
        MetricDefinition("mismatch_kl_nats", "gauge", "Estimated KL between sampler and learner log-probs at the last train step."),
        MetricDefinition("clipped_tokens_ratio", "gauge", "Response tokens of the last train step that the policy clip cut, 0 to 1."),
        MetricDefinition("staleness_versions", "gauge", "Largest staleness among the rollouts of the last train step."),
    ),
    # A scorer that is the gateway too (`oprime serve prm`).
    ("gateway", "scorer"): (
        MetricDefinition("http_requests", "counter", "HTTP requests that the gateway answered.", ("route", "status")),
        MetricDefinition("http_request_seconds", "histogram", "Time to answer an HTTP request.", ("route",)),
    ),
}
"""By the services that have a value for them."""

METRICS: tuple[MetricDefinition, ...] = tuple(metric for metrics in SHOWN_BY.values() for metric in metrics)


class PrometheusMetrics:
    """The Metrics port. Each instance has a registry of its own. A series is there from its first value on: what a process does not
    know it does not show, not even as 0. Thread-safe."""

    def __init__(self, **labels: str) -> None:
        """`labels` are added to every series: `run` and `service`."""
        self._labels = labels
        self.registry = CollectorRegistry()
        self._known: dict[str, Counter | Gauge | Histogram] = {}
        self._registering = Lock()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter, named with or without its `_total`. An amount of 0 makes known that nothing was counted so far."""
        counter = self._metric(name.removesuffix(TOTAL), "counter", labels)
        assert isinstance(counter, Counter)  # noqa: S101 - as declared
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        gauge = self._metric(name, "gauge", labels)
        assert isinstance(gauge, Gauge)  # noqa: S101 - as declared
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        histogram = self._metric(name, "histogram", labels)
        assert isinstance(histogram, Histogram)  # noqa: S101 - as declared
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus scrapes, and its content type."""
        return generate_latest(self), CONTENT_TYPE_LATEST  # pyright: ignore[reportArgumentType]

    def collect(self) -> Iterator[Metric]:
        """What the client library asks a registry for; without the times at which series began, which nobody asks for."""
        for family in self.registry.collect():
            shown = [sample for sample in family.samples if not sample.name.endswith("_created")]
            family.samples = [sample._replace(labels={**self._labels, **sample.labels}) for sample in shown]
            yield family

    def _metric(self, name: str, kind: Kind, labels: Mapping[str, str]) -> Counter | Gauge | Histogram:
        definition = _defined(name, kind, labels)
        with self._registering:
            if name not in self._known:
                self._known[name] = self._register(definition)
            return self._known[name]

    def _register(self, definition: MetricDefinition) -> Counter | Gauge | Histogram:
        name, text, labels = PREFIX + definition.name, definition.help, definition.labels
        if definition.kind == "counter":
            return Counter(name, text, labels, registry=self.registry)
        if definition.kind == "gauge":
            return Gauge(name, text, labels, registry=self.registry)
        return Histogram(name, text, labels, registry=self.registry, buckets=SECONDS)


_DEFINITIONS = {definition.name: definition for definition in METRICS}


def _defined(name: str, kind: Kind, labels: Mapping[str, str]) -> MetricDefinition:
    definition = _DEFINITIONS.get(name)
    if definition is None:
        raise ValueError(f"unknown metric {name!r}: declare it in oprime.adapters.prometheus_metrics.METRICS")
    if definition.kind != kind:
        raise ValueError(f"metric {name!r} is a {definition.kind}, not a {kind}")
    if set(labels) != set(definition.labels):
        raise ValueError(f"metric {name!r} has labels ({', '.join(definition.labels)}), given: ({', '.join(sorted(labels))})")
    return definition
