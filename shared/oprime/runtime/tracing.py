"""Spans of this process. Nobody records them until `trace_with` says where they go; until then they cost a comparison.

The context of a span travels: inside a process in a context variable, over gRPC and HTTP in the header `traceparent`, through
the queues in the entries. A prompt's trace begins where its ticket is issued, and an entry without a context belongs to a
prompt that nobody traces: what is done with it leaves no span.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from oprime.core.types import Batch
from oprime.ports import Attribute, Kind, Span, Traces

HEADER = "traceparent"


class _NoSpan:
    context = ""

    def note(self, **attributes: Attribute) -> None:
        pass

    def end(self, error: str = "") -> None:
        pass


NO_SPAN: Span = _NoSpan()

_traces: Traces | None = None
_current: ContextVar[str] = ContextVar("current_span", default="")


def trace_with(traces: Traces | None) -> None:
    """Where the spans of this process go from now on."""
    global _traces
    _traces = traces


def is_traced() -> bool:
    """Whether this process records anything."""
    return _traces is not None


def current() -> str:
    """Context of the span that this task works in; empty outside of any."""
    return _current.get()


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", parent: str | None = None, links: Sequence[str] = (), **attributes: Attribute
) -> Iterator[Span]:
    """A span for the length of the block, which calls inside become part of.

    `parent` is the context that came with the work: if it is empty, nobody traces this work. Without `parent` the span belongs to the one
    around it, or begins a new trace.
    """
    if _traces is None or parent == "":
        yield NO_SPAN
        return
    known = [link for link in links if link]
    begun = _traces.start(name, kind=kind, parent=_current.get() if parent is None else parent, links=known, attributes=attributes)
    token = _current.set(begun.context)
    error = ""
    try:
        yield begun
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        _current.reset(token)
        begun.end(error)


@contextmanager
def traces_begun(name: str, each: Sequence[Mapping[str, Attribute]]) -> Iterator[list[str]]:
    """A new trace for each of these attributes; for the length of the block, the first span of each. Yields their contexts."""
    if _traces is None:
        yield [""] * len(each)
        return
    begun = [_traces.start(name, kind="producer", attributes=attributes) for attributes in each]
    try:
        yield [one.context for one in begun]
    finally:
        for one in begun:
            one.end()


@contextmanager
def batch_span(name: str, batch: Batch) -> Iterator[Span]:
    """A trainer's work on a batch: a span in the trace of the step, and one in that of each of its prompts; they name each other."""
    with ExitStack() as open_spans:
        of_step = open_spans.enter_context(
            span(name, kind="consumer", parent=batch.trace, links=[group.trace for group in batch.groups], step=batch.step)
        )
        for group in batch.groups:
            if _traces is not None and group.trace:
                attributes = {"step": batch.step, "group_id": group.group_id}
                one = _traces.start(name, kind="consumer", parent=group.trace, links=_known(of_step), attributes=attributes)
                open_spans.callback(one.end)
        yield of_step


def _known(of_step: Span) -> list[str]:
    return [of_step.context] if of_step.context else []
