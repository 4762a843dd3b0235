"""What a process that answers score requests shows of itself: requests, what waits, and its forward passes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from oprime.ports import Metrics
from oprime.runtime.errors import OprimeError

OUTCOMES = ("scored", "refused", "failed", "abandoned")
"""Of requests: answered; too much, too busy or no such version; a fault of this process; the caller left."""
VERSIONS = {False: "newest", True: "named"}
"""Whether a request names a PRM version. Versions themselves are too many to be labels."""


class ScoreMeter:
    def __init__(self, metrics: Metrics | None = None) -> None:
        """Without `metrics` nobody hears of anything."""
        self._metrics = metrics
        if metrics is not None:
            for outcome in OUTCOMES:
                metrics.count("score_requests", 0, outcome=outcome)

    @contextmanager
    def request(self, *, named: bool) -> Iterator[None]:
        """A request from its arrival to its answer, for the length of the block."""
        began, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "scored"
        except OprimeError:
            outcome = "refused"
            raise
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        finally:
            if self._metrics is not None:
                self._metrics.count("score_requests", outcome=outcome)
                self._metrics.observe("score_seconds", time.perf_counter() - began, version=VERSIONS[named])

    def waiting(self, *, requests: int, tokens: int) -> None:
        """How much waits to be scored now."""
        if self._metrics is not None:
            self._metrics.gauge("score_waiting_requests", requests)
            self._metrics.gauge("score_waiting_tokens", tokens)

    def passed(self, *, requests: int, tokens: int, seconds: float) -> None:
        """A forward pass has ended: for how many requests, of how many tokens, prompts included."""
        if self._metrics is not None:
            self._metrics.observe("score_pass_seconds", seconds)
            self._metrics.count("score_pass_requests", requests)
            self._metrics.count("score_pass_tokens", tokens)

    def serves(self, version: int) -> None:
        """The version that answers where none is named."""
        if self._metrics is not None:
            self._metrics.gauge("prm_version", version)
