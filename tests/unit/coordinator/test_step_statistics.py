"""What a committed step shows to Prometheus."""

import urllib.request

import pytest

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.runtime.errors import SettingsError
from oprime_coordinator.step_statistics import StepStatistics, export_step
from tiny_models import verified_rollout


def test_a_step_is_counted_and_its_newest_values_are_shown() -> None:
    metrics = PrometheusMetrics()
    export_step(metrics, {"prm_loss": 0.5, "seconds_prm": 0.2, "wait_s_learner": 3.0, "trained_tokens": 10.0})
    export_step(metrics, {"prm_loss": 0.4, "seconds_prm": 0.2, "wait_s_learner": 1.0, "trained_tokens": 10.0})
    page = metrics.render()[0].decode()
    assert "oprime_train_steps_total 2.0" in page
    assert "oprime_prm_loss 0.4" in page
    assert 'oprime_wait_seconds_total{for="learner"} 4.0' in page
    assert 'oprime_train_step_seconds_count{phase="prm"} 2.0' in page
    assert "oprime_scored_tokens_total 20.0" in page


def test_metrics_are_served_on_their_port_and_a_taken_port_is_named() -> None:
    metrics = PrometheusMetrics()
    port = _free_port()
    metrics.serve("127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"oprime_train_steps_total" in answer.read()
    with pytest.raises(SettingsError, match=str(port)):
        metrics.serve("127.0.0.1", port)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_statistics_are_means_over_what_was_verified_before_the_filter() -> None:
    statistics = StepStatistics(started_s=10.0)
    statistics.add(verified_rollout(1, 0, 1.0, [9, 9]))
    statistics.add(verified_rollout(1, 1, 0.0, [9, 9, 9, 9]))
    row = statistics.row(12.0)
    assert (row["outcome_reward_mean"], row["response_tokens_mean"], row["tokens_per_second"]) == (0.5, 3.0, 3.0)
    assert "baseline_outcome_reward_mean" not in row


def test_greedy_baselines_count_for_the_pace_and_have_a_mean_of_their_own() -> None:
    statistics = StepStatistics(started_s=10.0)
    statistics.add(verified_rollout(1, 0, 0.0, [9, 9]))
    statistics.add_baseline(verified_rollout(1, 1, 1.0, [9, 9, 9, 9]))
    row = statistics.row(12.0)
    assert (row["outcome_reward_mean"], row["response_tokens_mean"], row["baseline_outcome_reward_mean"]) == (0.0, 2.0, 1.0)
    assert (row["tokens_per_second"], row["rollouts_per_second"]) == (3.0, 1.0)
