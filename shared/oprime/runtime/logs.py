"""JSON lines on stderr: one event per unit of work, with fields."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from oprime.runtime.tracing import current


def configure_logs(service: str, *, run: str = "", level: str = "info") -> None:
    """Every line names the service, and the run once that is known; within a span also its trace."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _named({"service": service, "run": run} if run else {"service": service}),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write per line: services and ranks that share a pipe would mix the halves of two.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _named(names: dict[str, str]) -> Processor:
    """Adds what is the same in every line of a process, in whichever thread it is written."""

    def add(_logger: object, _method: str, event: EventDict) -> EventDict:
        trace = current()
        # 00-TRACE-SPAN-FLAGS
        return {**event, **names, **({"trace_id": trace.split("-")[1]} if trace else {})}

    return add
