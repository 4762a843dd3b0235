"""Several tries of one remote call within one deadline: back-off, jitter, bounded concurrency, circuit breaker.

What a failure means for a request whose callers can wait (a run's rollouts):

| failure | the request |
| --- | --- |
| connection, time-out, 5xx, 429, credentials, redirect; the circuit is open | is held and tried again, at most `hold_s` |
| another 4xx; an answer that cannot be used while the circuit is closed | fails by itself |
| any of the first line, OWN_ROUNDS times while others were answered | fails by itself |
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.ports import Clock
from oprime.runtime.errors import OprimeError
from oprime_verifier.external.circuit import Circuit, CircuitState
from oprime_verifier.external.outage import FLAG, Outage
from oprime_verifier.external.settings import RemoteSection
from oprime_verifier.judgement import Judgement, patient_judgement

Ask = Callable[[float], Awaitable[Outcome]]

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
LONGEST_HOLD_S = 60.0
"""Longest wait between two rounds of tries of a held request, unless the target asks for more."""
POLL_S = 1.0
"""A held request looks this often whether the target is back."""
OWN_ROUNDS = 10
"""After so many rounds in which it failed while others were answered, a failure is the request's own."""


class TryFailedError(OprimeError):
    """One try failed, or all tries of a round did."""

    def __init__(self, reason: str, *, retry: bool = True, wait_s: float = 0.0, healthy: bool = False, own: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry
        """Whether another try may do better within moments."""
        self.wait_s = wait_s
        """Seconds that the target asked to wait."""
        self.healthy = healthy
        """The target works, and only refused this call; its circuit stays closed."""
        self.own = own
        """It is about this request, and says nothing about others; waiting would not better it."""

    def again(self, reason: str) -> "TryFailedError":
        """The same failure with more to say."""
        return TryFailedError(reason, retry=self.retry, wait_s=self.wait_s, healthy=self.healthy, own=self.own)


@dataclass(kw_only=True)
class Deadline:
    """Of one request, on the clock of its attempts."""

    seconds: float
    ends: float


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
        self._outage = Outage(target, self._clock.now)
        self._answered = 0
        """Requests that the target dealt with, also by refusing them."""
        self.circuit = Circuit(failures=section.circuit_failures, open_s=section.circuit_open_s, now=self._clock.now)

    @property
    def outage(self) -> str:
        """Why the target does not answer, for a person; empty while it does."""
        return self._outage.text

    def deadline(self, request: VerificationRequest) -> Deadline:
        """When a request that arrives now must be answered."""
        seconds = min(self._section.deadline_s, request.deadline_s or self._section.deadline_s)
        return Deadline(seconds=seconds, ends=self._clock.now() + seconds)

    async def outcome(self, request: VerificationRequest, ask: Ask, deadline: Deadline | None = None) -> Outcome:
        """`ask(seconds left)` until it answers; INFRA_ERROR with the last reason when tries or time are used up.

        For callers who can wait, the request is held while the target is out, at most `hold_s`, and then tried again.
        """
        deadline = deadline or self.deadline(request)
        judgement = patient_judgement() if self._section.hold_s else None
        try:
            return await (self._round(ask, deadline) if judgement is None else self._patiently(judgement, ask, deadline))
        except TryFailedError as error:
            flags = () if error.own else (FLAG,)
            return unscored(Verdict.INFRA_ERROR, f"{self._target}: {error}", cacheable=False, flags=flags)

    async def _patiently(self, judgement: Judgement, ask: Ask, deadline: Deadline) -> Outcome:
        """Rounds of tries until one answers. Raises TryFailedError for a failure of the request's own, and after `hold_s`."""
        ends = self._clock.now() + self._section.hold_s
        try:
            return await self._round(ask, deadline, patient=True)
        except TryFailedError as error:
            if error.own:
                raise
            failed = error
        with self._outage.waiting(judgement):
            return await self._held(ask, deadline, failed, ends)

    async def _held(self, ask: Ask, deadline: Deadline, failed: TryFailedError, ends: float) -> Outcome:
        own_rounds = rounds = 0
        while True:
            answered = self._answered
            await self._pause(failed, rounds, ends)
            if self._clock.now() >= ends:
                raise TryFailedError(f"{failed}; it was held for {self._section.hold_s:g} s (hold_s)")
            deadline.ends = self._clock.now() + deadline.seconds
            try:
                return await self._round(ask, deadline, patient=True)
            except TryFailedError as error:
                if error.own:
                    raise
                failed = error
            rounds += 1
            if self._answered == answered:
                self._outage.goes_on(str(failed))
                continue
            own_rounds += 1
            if own_rounds == OWN_ROUNDS:
                raise TryFailedError(f"{failed}; so {own_rounds} times while others were answered", own=True)

    async def _pause(self, failed: TryFailedError, rounds: int, ends: float) -> None:
        """Wait until another try may do better: the circuit lets one through or is closed by others, or a back-off has passed."""
        was_open = self.circuit.state is not CircuitState.CLOSED
        # An open circuit sets the pace itself; chance then decides who finds out whether it works again.
        pause_s = self.circuit.closes_in_s + self._back_off(3) if was_open else self._back_off(4 + rounds, LONGEST_HOLD_S)
        until = min(self._clock.now() + max(failed.wait_s, pause_s), ends)
        while (left_s := until - self._clock.now()) > 0 and not (was_open and self.circuit.state is CircuitState.CLOSED):
            await self._clock.sleep(min(left_s, POLL_S))
            self._outage.remind()

    async def _round(self, ask: Ask, deadline: Deadline, *, patient: bool = False) -> Outcome:
        """One round of tries in turn with others. Waiting for one's turn costs a patient request no time. Raises TryFailedError."""
        failed: list[TryFailedError] = []
        try:
            async with asyncio.timeout(None if patient else self._left_s(deadline)) as limit:
                came = self._clock.now()
                async with self._slots:
                    if patient:
                        deadline.ends += self._clock.now() - came
                        limit.reschedule(asyncio.get_running_loop().time() + self._left_s(deadline))
                    return await self._tries(ask, deadline, failed)
        except TimeoutError as error:
            before = failed[-1] if failed else "no try was finished"
            raise TryFailedError(f"no answer within {deadline.seconds:g} s; before: {before}") from error

    async def _tries(self, ask: Ask, deadline: Deadline, failed: list[TryFailedError]) -> Outcome:
        """Tries with a back-off between them, each failed one appended to `failed`. Raises TryFailedError after the last."""
        for attempt in range(1, self._section.attempts + 1):
            try:
                return await self._once(ask, deadline)
            except TryFailedError as error:
                failed.append(error.again(f"{error} (try {attempt} of {self._section.attempts})"))
            wait_s = max(failed[-1].wait_s, self._back_off(attempt - 1))
            if not failed[-1].retry or attempt == self._section.attempts:
                break
            if self._clock.now() + wait_s >= deadline.ends:
                late = f"the next try would come in {wait_s:.1f} s, after the deadline of {deadline.seconds:g} s"
                failed.append(failed[-1].again(f"{failed[-1]}; {late}"))
                break
            await self._clock.sleep(wait_s)
        # Where nobody is answered any more, a failure is no request's own.
        failed[-1].own = failed[-1].own and self.circuit.state is CircuitState.CLOSED
        raise failed[-1]

    async def _once(self, ask: Ask, deadline: Deadline) -> Outcome:
        if not self.circuit.admit():
            failures, wait_s = self._section.circuit_failures, self.circuit.closes_in_s
            why = f"it failed {failures} times in a row and is tried again in {wait_s:.1f} s; before: {self._outage.reason}"
            raise TryFailedError(f"not called: {why}", retry=False)
        asked = time.perf_counter()
        try:
            outcome = _answered(await ask(deadline.ends - self._clock.now()))
        except TryFailedError as error:
            self._failed(error)
            raise
        except asyncio.CancelledError:
            self._given_up(deadline)
            raise
        except BaseException as error:
            self._failed(TryFailedError(f"{type(error).__name__}: {error}"))
            raise
        self._answers()
        # Without the wait for its turn, which says nothing about the target. A verifier service knows better.
        return replace(outcome, timings={"judge": time.perf_counter() - asked, **outcome.timings})

    def _answers(self) -> None:
        self.circuit.succeeded()
        self._answered += 1
        self._outage.ended()

    def _failed(self, error: TryFailedError) -> None:
        if error.healthy and error.own:
            self._answers()
        elif error.healthy:
            self.circuit.succeeded()
        else:
            self.circuit.failed()
        if self.circuit.state is CircuitState.OPEN:
            self._outage.goes_on(str(error))

    def _given_up(self, deadline: Deadline) -> None:
        """Our deadline passing is the target's failure; a caller who leaves earlier says nothing about it."""
        if self._clock.now() >= deadline.ends:
            self._failed(TryFailedError(f"no answer within {deadline.seconds:g} s"))
        else:
            self.circuit.abandoned()

    def _left_s(self, deadline: Deadline) -> float:
        return max(deadline.ends - self._clock.now(), 0.0)

    def _back_off(self, attempt: int, most_s: float = LONGEST_WAIT_S) -> float:
        """Half fixed, half by chance, so that callers who failed together do not come back together."""
        longest = min(most_s, FIRST_WAIT_S * 2 ** min(attempt, 16))
        return longest * (0.5 + self._chance.random() / 2)


def _answered(outcome: Outcome) -> Outcome:
    """Raises TryFailedError where a verifier service says that what it asks in turn is out."""
    if outcome.verdict is Verdict.INFRA_ERROR and FLAG in outcome.flags:
        raise TryFailedError(outcome.reason)
    return outcome
