"""Several tries of one remote call within one deadline: back-off, jitter, bounded concurrency, circuit breaker."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.ports import Clock
from oprime.runtime.errors import OprimeError
from oprime_verifier.external.circuit import Circuit
from oprime_verifier.external.settings import RemoteSection

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


class TryFailedError(OprimeError):
    """One try failed."""

    def __init__(self, reason: str, *, retry: bool = True, wait_s: float = 0.0, healthy: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry
        """Whether another try may do better."""
        self.wait_s = wait_s
        """Seconds that the target asked to wait."""
        self.healthy = healthy
        """The target works, and only refused this call; its circuit stays closed."""


class LoopClock:
    """The running event loop's own time, by which its timeouts end too."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Attempts:
    """Tries of calls to one target."""

    def __init__(self, section: RemoteSection, *, target: str, clock: Clock | None = None, chance: random.Random | None = None) -> None:
        self._section = section
        self._target = target
        self._clock = clock or LoopClock()
        self._chance = chance or random.Random()  # noqa: S311 - spreads retries; nothing to guess
        self._slots = asyncio.Semaphore(section.concurrency)
        self.circuit = Circuit(failures=section.circuit_failures, open_s=section.circuit_open_s, now=self._clock.now)

    def ends_at(self, request: VerificationRequest) -> float:
        """When a request that arrives now must be answered."""
        return self._clock.now() + min(self._section.deadline_s, request.deadline_s or self._section.deadline_s)

    async def outcome(self, request: VerificationRequest, ask: Callable[[float], Awaitable[Outcome]], ends: float | None = None) -> Outcome:
        """`ask(seconds left)` until it answers; INFRA_ERROR with the last reason when tries or time (`ends`) are used up."""
        ends = self.ends_at(request) if ends is None else ends
        deadline_s = max(ends - self._clock.now(), 0.0)
        last = "no try was finished"
        try:
            async with asyncio.timeout(deadline_s), self._slots:
                for attempt in range(self._section.attempts):
                    try:
                        return await self._once(ask, ends)
                    except TryFailedError as error:
                        last = f"{error} (try {attempt + 1} of {self._section.attempts})"
                        if not error.retry or attempt + 1 == self._section.attempts:
                            break
                        wait_s = max(error.wait_s, self._back_off(attempt))
                        if self._clock.now() + wait_s >= ends:
                            last = f"{last}; the next try would come in {wait_s:.1f} s, after the deadline of {deadline_s:g} s"
                            break
                        await self._clock.sleep(wait_s)
        except TimeoutError:
            last = f"no answer within {deadline_s:g} s; before: {last}"
        return unscored(Verdict.INFRA_ERROR, f"{self._target}: {last}", cacheable=False)

    async def _once(self, ask: Callable[[float], Awaitable[Outcome]], ends: float) -> Outcome:
        if not self.circuit.admit():
            failures, wait_s = self._section.circuit_failures, self.circuit.closes_in_s
            raise TryFailedError(f"not called: it failed {failures} times in a row and is tried again in {wait_s:.1f} s", retry=False)
        try:
            outcome = await ask(ends - self._clock.now())
        except TryFailedError as error:
            self.circuit.succeeded() if error.healthy else self.circuit.failed()
            raise
        except asyncio.CancelledError:
            self._given_up(ends)
            raise
        except BaseException:
            self.circuit.failed()
            raise
        self.circuit.succeeded()
        return outcome

    def _given_up(self, ends: float) -> None:
        """Our deadline passing is the target's failure; a caller who leaves earlier says nothing about it."""
        if self._clock.now() >= ends:
            self.circuit.failed()
        else:
            self.circuit.abandoned()

    def _back_off(self, attempt: int) -> float:
        """Half fixed, half by chance, so that callers who failed together do not come back together."""
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
        return longest * (0.5 + self._chance.random() / 2)
