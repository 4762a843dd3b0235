"""Traces over OTLP, the protocol of OpenTelemetry, by gRPC. The only module that knows OpenTelemetry."""

from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from oprime.ports import Attribute, Kind, Span

PREFIX = "oprime."
MOST_LINKS = 8192
"""A step has one for each of its prompts."""
QUEUED_SPANS = 65_536
EXPORT_S = 3.0
"""How long one export may take, tries included: a stop waits for the last one."""

_KINDS: Mapping[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_W3C = TraceContextTextMapPropagator()


class OtlpTraces:
    """The Traces port. A thread sends what has ended; what the collector does not take in time is lost, and nothing waits for it."""

    def __init__(self, url: str, *, service: str, run: str, share: float) -> None:
        """`url` is http://HOST:PORT or, encrypted, https://HOST:PORT; `share` of all traces are recorded, each whole or not at all."""
        resource = Resource.create({"service.namespace": "oprime", "service.name": service, f"{PREFIX}run": run})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_links=MOST_LINKS),
        )
        exporter = OTLPSpanExporter(endpoint=url, insecure=url.startswith("http://"), timeout=EXPORT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS, schedule_delay_millis=1000, export_timeout_millis=EXPORT_S * 1000)
        )
        self._tracer = self._provider.get_tracer("oprime")

    def start(
        self, name: str, *, kind: Kind = "internal", parent: str = "", links: Sequence[str] = (), attributes: Mapping[str, Attribute]
    ) -> Span:
        begun = self._tracer.start_span(
            name,
            context=_W3C.extract({"traceparent": parent}),
            kind=_KINDS[kind],
            links=[Link(get_current_span(_W3C.extract({"traceparent": link})).get_span_context()) for link in links],
            attributes={PREFIX + key: value for key, value in attributes.items()},
        )
        return _Span(begun)

    def close(self) -> None:
        self._provider.shutdown()


class _Span:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        known = span.get_span_context()
        self.context = f"00-{known.trace_id:032x}-{known.span_id:016x}-01" if span.is_recording() else ""

    def note(self, **attributes: Attribute) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(PREFIX + name, value)

    def end(self, error: str = "") -> None:
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()
