"""What one prompt went through, told as spans that know each other over processes and machines."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Attribute = str | bool | int | float
Kind = Literal["internal", "server", "client", "producer", "consumer"]


class Span(Protocol):
    """A piece of work, from `Traces.start` to `end`."""

    @property
    def context(self) -> str:
        """Its place in its trace as W3C writes it (`traceparent`); empty when nobody records it. It travels to whoever works on."""
        ...

    def note(self, **attributes: Attribute) -> None: ...

    def end(self, error: str = "") -> None:
        """The work is over; `error` says why it failed."""
        ...


class Traces(Protocol):
    """Where spans go."""

    def start(
        self, name: str, *, kind: Kind = "internal", parent: str = "", links: Sequence[str] = (), attributes: Mapping[str, Attribute]
    ) -> Span:
        """A span below `parent`, or the first of a new trace without one. `links` are contexts of other traces that it has to do with."""
        ...

    def close(self) -> None:
        """Send what is left; a collector that does not answer costs a few seconds at most."""
        ...
