"""What every service shows of itself while it runs: metrics and health at a port of its own, spans to a collector."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from oprime.adapters.prometheus_metrics import RUN, SERVICE, PrometheusMetrics
from oprime.ports import Traces
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import EndpointsSection
from oprime.runtime.tracing import trace_with
from oprime.runtime.watch_port import WatchPort

METRICS_PORT = "OPRIME_METRICS_PORT"
"""Environment variable: this process's own port, where services share a machine and cannot all have endpoints.metrics_port."""


@contextmanager
def observed(service: str, run: str, endpoints: EndpointsSection, ready: Callable[[], Awaitable[bool]]) -> Iterator[PrometheusMetrics]:
    """The metrics of a service, for the length of the block, inside its event loop. `ready` answers /readyz.

    Of several ranks the first speaks for all. Raises SettingsError for a port that is taken or a package that is missing.
    """
    metrics = PrometheusMetrics(**{RUN: run, SERVICE: service})
    if os.environ.get("RANK", "0") != "0":
        yield metrics
        return
    port = metrics_port_of(endpoints)
    watched = WatchPort(endpoints.metrics_interface, port, metrics=metrics.render, ready=ready) if port else None
    traces = _traces(service, run, endpoints) if endpoints.traces_url else None
    trace_with(traces)
    try:
        yield metrics
    finally:
        trace_with(None)
        if traces is not None:
            traces.close()
        if watched is not None:
            watched.close()


def metrics_port_of(endpoints: EndpointsSection) -> int:
    """The port of this process for those who watch it; 0 for none."""
    return int(os.environ.get(METRICS_PORT) or endpoints.metrics_port)


def _traces(service: str, run: str, endpoints: EndpointsSection) -> Traces:
    try:
        from oprime.adapters.otlp_traces import OtlpTraces
    except ImportError as error:
        raise SettingsError(
            f"endpoints.traces_url = {endpoints.traces_url!r} needs a package that is missing here ({error.name}): pip install "
            "'oprime[traces]', or set endpoints.traces_url="
        ) from error
    return OtlpTraces(endpoints.traces_url, service=service, run=run, share=endpoints.traces_share)
