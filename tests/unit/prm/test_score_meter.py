"""What a process that scores shows to Prometheus."""

import asyncio

import pytest

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.runtime.errors import TooBusyError
from oprime_prm.scoring.meter import ScoreMeter


def page(metrics: PrometheusMetrics) -> set[str]:
    return {line for line in metrics.render()[0].decode().splitlines() if not line.startswith("#")}


def test_requests_are_counted_by_what_became_of_them_and_timed_by_version() -> None:
    metrics = PrometheusMetrics()
    meter = ScoreMeter(metrics)
    assert 'oprime_score_requests_total{outcome="failed"} 0.0' in page(metrics)
    with meter.request(named=False):
        pass
    for error in (TooBusyError("later"), RuntimeError("out of memory"), asyncio.CancelledError()):
        with pytest.raises(type(error)), meter.request(named=True):
            raise error
    assert page(metrics) >= {
        'oprime_score_requests_total{outcome="scored"} 1.0',
        'oprime_score_requests_total{outcome="refused"} 1.0',
        'oprime_score_requests_total{outcome="failed"} 1.0',
        'oprime_score_requests_total{outcome="abandoned"} 1.0',
        'oprime_score_seconds_count{version="newest"} 1.0',
        'oprime_score_seconds_count{version="named"} 3.0',
    }


def test_what_waits_is_a_gauge_and_passes_add_up() -> None:
    metrics = PrometheusMetrics()
    meter = ScoreMeter(metrics)
    meter.waiting(requests=3, tokens=90)
    meter.waiting(requests=1, tokens=40)
    meter.passed(requests=2, tokens=50, seconds=0.5)
    meter.passed(requests=1, tokens=40, seconds=0.25)
    meter.serves(7)
    assert page(metrics) >= {
        "oprime_score_waiting_requests 1.0",
        "oprime_score_waiting_tokens 40.0",
        "oprime_score_pass_requests_total 3.0",
        "oprime_score_pass_tokens_total 90.0",
        "oprime_score_pass_seconds_sum 0.75",
        "oprime_score_pass_seconds_count 2.0",
        "oprime_prm_version 7.0",
    }
