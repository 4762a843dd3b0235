"""Metrics as Prometheus reads them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oprime.adapters.prometheus_metrics import METRICS, PrometheusMetrics


def samples(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, sorted label values) -> value, from the page."""
    page, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["rollouts", "rollouts_total"])
def test_a_counter_adds_up_under_its_total(name: str) -> None:
    metrics = PrometheusMetrics()
    metrics.count(name, finish_reason="stop")
    metrics.count(name, 2, finish_reason="stop")
    metrics.count(name, finish_reason="length")
    page = samples(metrics)
    assert page["oprime_rollouts_total", ("stop",)] == 3
    assert page["oprime_rollouts_total", ("length",)] == 1


def test_a_gauge_keeps_its_last_value() -> None:
    metrics = PrometheusMetrics()
    metrics.gauge("queue_lag_entries", 5, stream="tickets")
    metrics.gauge("queue_lag_entries", 2, stream="tickets")
    metrics.gauge("prm_loss", 0.25)
    page = samples(metrics)
    assert page["oprime_queue_lag_entries", ("tickets",)] == 2
    assert page["oprime_prm_loss", ()] == 0.25


def test_a_histogram_sums_and_counts() -> None:
    metrics = PrometheusMetrics()
    metrics.observe("train_step_seconds", 0.75, phase="backward")
    metrics.observe("train_step_seconds", 1.5, phase="backward")
    page = samples(metrics)
    assert page["oprime_train_step_seconds_sum", ("backward",)] == 2.25
    assert page["oprime_train_step_seconds_count", ("backward",)] == 2
    assert page["oprime_train_step_seconds_bucket", ("1.0", "backward")] == 1


def test_a_label_may_be_a_word_of_python() -> None:
    metrics = PrometheusMetrics()
    metrics.count("wait_seconds", 1.5, **{"for": "batches"})
    assert samples(metrics)["oprime_wait_seconds_total", ("batches",)] == 1.5


def test_each_instance_counts_for_itself_and_shows_only_what_it_has_a_value_for() -> None:
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.count("train_steps")
    assert samples(one) == {("oprime_train_steps_total", ()): 1}
    assert samples(other) == {}
    # That nothing was counted so far is a value too.
    other.count("train_steps", 0)
    assert samples(other) == {("oprime_train_steps_total", ()): 0}


def test_every_series_says_which_service_of_which_run_it_is_from() -> None:
    metrics = PrometheusMetrics(run="maths", service="prm")
    metrics.gauge("prm_loss", 0.5)
    metrics.gauge("queue_lag_entries", 2, stream="batches")
    page = metrics.render()[0].decode()
    assert 'oprime_prm_loss{run="maths",service="prm"} 0.5' in page
    assert 'oprime_queue_lag_entries{run="maths",service="prm",stream="batches"} 2.0' in page


def test_an_unknown_name_a_wrong_kind_and_wrong_labels_are_refused() -> None:
    metrics = PrometheusMetrics()
    with pytest.raises(ValueError, match="unknown metric 'rollout': declare it in"):
        metrics.count("rollout")
    with pytest.raises(ValueError, match="metric 'prm_loss' is a gauge, not a counter"):
        metrics.count("prm_loss")
    with pytest.raises(ValueError, match=r"metric 'verifications' has labels \(verifier, outcome\), given: \(verifier\)"):
        metrics.count("verifications", verifier="math")
    with pytest.raises(ValueError, match=r"metric 'prm_loss' has labels \(\), given: \(stream\)"):
        metrics.gauge("prm_loss", 1, stream="tickets")


def test_every_metric_appears_with_its_help() -> None:
    metrics = PrometheusMetrics()
    for metric in METRICS:
        show = {"counter": metrics.count, "gauge": metrics.gauge, "histogram": metrics.observe}[metric.kind]
        show(metric.name, 1, **dict.fromkeys(metric.labels, "x"))
    page, content_type = metrics.render()
    shown = {family.name.removeprefix("oprime_"): family.documentation for family in text_string_to_metric_families(page.decode())}
    assert shown == {metric.name: metric.help for metric in METRICS}
    assert len(shown) == len(METRICS)
    assert content_type.startswith("text/plain")
