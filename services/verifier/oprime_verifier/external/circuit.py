"""Stops calling a target that only fails. Pure: the clock is an argument."""

from collections.abc import Callable
from enum import StrEnum


class CircuitState(StrEnum):
    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """No call is made."""
    HALF_OPEN = "half-open"
    """One call finds out whether the target works again; the others are refused."""


class Circuit:
    """Opens after `failures` failed calls in a row; after `open_s` seconds one call is let through."""

    def __init__(self, *, failures: int, open_s: float, now: Callable[[], float]) -> None:
        self._most = failures
        self._open_s = open_s
        self._now = now
        self._failed = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        if self._opened_at is None:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if self.closes_in_s == 0 else CircuitState.OPEN

    @property
    def closes_in_s(self) -> float:
        """Seconds until a call may be tried; 0 when one may be tried now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._open_s - self._now())

    def admit(self) -> bool:
        """Whether a call may be made now. Each admitted call must end in `succeeded`, `failed` or `abandoned`."""
        state = self.state
        if state is CircuitState.OPEN or (state is CircuitState.HALF_OPEN and self._probing):
            return False
        self._probing = state is CircuitState.HALF_OPEN
        return True

    def succeeded(self) -> None:
        self._failed, self._opened_at, self._probing = 0, None, False

    def failed(self) -> None:
        self._failed += 1
        if self._probing or self._failed >= self._most:
            self._opened_at = self._now()
        self._probing = False

    def abandoned(self) -> None:
        """The call ended without telling anything, for example because its caller gave up."""
        self._probing = False
