"""One judgement under way, as what it is made of sees it: whether its callers can wait, and that it waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Judgement:
    """What one question's answer is being found for. Its parts run in its context and find it with `patient_judgement`."""

    def __init__(self) -> None:
        self.callers = 0
        """Those who wait for the answer: siblings that say the same share one judgement."""
        self._waits = 0

    @property
    def held(self) -> bool:
        """Whether it waits for a verifier that is out, and so uses nobody's time."""
        return self._waits > 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For as long as a part is held, its further tries included."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """What is started inside may wait as long as a verifier is out."""
        token = _patient.set(self)
        try:
            yield
        finally:
            _patient.reset(token)


_patient: ContextVar[Judgement | None] = ContextVar("oprime_patient_judgement", default=None)


def patient_judgement() -> Judgement | None:
    """The judgement that this code works for, if its callers can wait; None for a caller with a deadline."""
    return _patient.get()
