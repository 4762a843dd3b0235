"""What is known and told of a target that does not answer: since when, why, and how much work waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from oprime_verifier.judgement import Judgement

log = structlog.get_logger()

REMIND_S = 60.0
FLAG = "outage"
"""Flag of an INFRA_ERROR that is no fault of the request: whoever can wait asks again later."""


class Outage:
    """Of one target. Logs its beginning, its end, and every minute in between while work is held."""

    def __init__(self, target: str, now: Callable[[], float]) -> None:
        self._target = target
        self._now = now
        self._since: float | None = None
        self._told_at = 0.0
        self._reason = ""
        self._waiting: list[Judgement] = []

    @property
    def held(self) -> int:
        """Callers that wait."""
        return sum(judgement.callers for judgement in set(self._waiting))

    @property
    def reason(self) -> str:
        """Why it does not answer; empty while it does."""
        return "" if self._since is None else self._reason

    @property
    def text(self) -> str:
        """For a person; empty while it answers."""
        return "" if self._since is None else f"{self._target} has not answered for {self._now() - self._since:.0f} s: {self._reason}"

    def goes_on(self, reason: str) -> None:
        """It failed again, or for the first time."""
        self._reason = reason
        if self._since is None:
            self._since = self._told_at = self._now()
            log.warning("verifier_out", verifier=self._target, reason=reason, held=self.held)

    def ended(self) -> None:
        if self._since is not None:
            log.warning("verifier_back", verifier=self._target, seconds=self._now() - self._since, held=self.held)
            self._since = None

    @contextmanager
    def waiting(self, judgement: Judgement) -> Iterator[None]:
        self._waiting.append(judgement)
        try:
            with judgement.waiting():
                yield
        finally:
            self._waiting.remove(judgement)

    def remind(self) -> None:
        """To be called often while something waits."""
        if self._since is not None and self._now() - self._told_at >= REMIND_S:
            self._told_at = self._now()
            log.warning("verifier_still_out", verifier=self._target, reason=self._reason, held=self.held, seconds=self._now() - self._since)
