"""What the command line says: plain lines and tables on standard output."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 140


def say(text: str = "") -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201 - the command line's one place that prints


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console() -> "Console":
    """A rich console; without a terminal it writes plain text and does not wrap at 80 characters."""
    from rich.console import Console

    return Console(width=None if is_terminal() else PLAIN_WIDTH, highlight=False)


def show(renderable: Any) -> None:
    """Print a table or another rich object."""
    console().print(renderable)
    sys.stdout.flush()


def count(number: float) -> str:
    """A number for a person: 12,345."""
    return f"{number:,.0f}"


def size(amount: float) -> str:
    """Bytes for a person: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds for a person: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
