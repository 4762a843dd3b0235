"""Worker processes that judge responses: one item each at a time, killed at the deadline and replaced."""

import asyncio
import time
from typing import Any

import structlog

from oprime.core.types import Outcome, OutcomeStatus
from oprime.runtime.errors import NotReadyError, SettingsError, UnusableInputError
from oprime.runtime.heartbeat import BusyMeter
from oprime_verifier.worker import Worker, WorkerFailedError, WorkerSetup

log = structlog.get_logger()

RESTART_BACKOFF_S = (0.1, 0.5, 2.0, 10.0)
MAX_RESPONSE_CHARS = 1_000_000


class WorkerPool:
    """`workers` processes. `start` before the first `judge`, `close` at the end."""

    def __init__(self, setup: WorkerSetup, *, workers: int, attempts: int) -> None:
        self.setup = setup
        self.workers = workers
        self.attempts = attempts
        self.verifiers: list[dict[str, str]] = []
        """Name, version and description of each verifier, known after `start`."""
        self.meter = BusyMeter()
        """At work while any worker judges."""
        self.killed = 0
        """Workers that were replaced since the start."""
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._running: set[Worker] = set()
        self._supervisors: list[asyncio.Task[None]] = []
        self._exchanges: set[asyncio.Task[Outcome | str]] = set()

    async def start(self) -> None:
        """Return when one worker is ready; the others follow. Raises SettingsError for a plug-in that cannot be used."""
        first = await Worker.start(self.setup)
        self.verifiers = first.verifiers
        self._running.add(first)
        self._supervisors = [asyncio.create_task(self._supervise(first if slot == 0 else None)) for slot in range(self.workers)]

    @property
    def ready_workers(self) -> int:
        return sum(worker.alive for worker in self._running)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._running if worker.alive)

    async def judge(self, verifier: str, response: str, ground_truth: str, data_source: str = "") -> tuple[Outcome, float]:
        """Judge one response; returns the outcome and the seconds that workers spent on it.

        An ERROR is tried `attempts` times. Raises UnusableInputError for an unknown verifier, NotReadyError before `start`.
        """
        self._check(verifier)
        if len(response) > MAX_RESPONSE_CHARS:
            reason = f"the response has {len(response)} characters; at most {MAX_RESPONSE_CHARS} are judged"
            return Outcome(status=OutcomeStatus.INVALID, score=0.0, reason=reason, verifier=verifier), 0.0
        item = {"verifier": verifier, "response": response, "ground_truth": ground_truth}
        seconds, reasons = 0.0, []
        for _ in range(self.attempts):
            worker = await self._take()
            started = time.perf_counter()
            # Shielded: when the caller gives up, the worker still finishes its item or is killed at the deadline.
            exchange = asyncio.create_task(self._run(worker, item))
            self._exchanges.add(exchange)
            exchange.add_done_callback(self._exchanges.discard)
            answer = await asyncio.shield(exchange)
            seconds += time.perf_counter() - started
            if isinstance(answer, Outcome) and answer.status is not OutcomeStatus.ERROR:
                return answer, seconds
            reasons.append(answer if isinstance(answer, str) else answer.reason)
            log.warning("verification_failed", verifier=verifier, data_source=data_source, reason=reasons[-1])
        return Outcome(status=OutcomeStatus.ERROR, score=None, reason=_summary(reasons), verifier=verifier), seconds

    async def close(self) -> None:
        """Kill every worker and wait for its end."""
        tasks: list[asyncio.Task[Any]] = [*self._supervisors, *self._exchanges]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._running:
            worker.kill()
        await asyncio.gather(*(worker.process.wait() for worker in self._running))
        self._running.clear()
        self._supervisors = []

    def _check(self, verifier: str) -> None:
        if not self._supervisors:
            raise NotReadyError("the verifier has no worker yet: retry")
        names = sorted(known["name"] for known in self.verifiers)
        if verifier not in names:
            raise UnusableInputError(
                f"unknown verifier {verifier!r}: this service offers {', '.join(names)}; add others under [verifier.plugins]"
            )

    async def _take(self) -> Worker:
        while True:
            worker = await self._idle.get()
            if worker.alive:
                return worker

    async def _run(self, worker: Worker, item: dict[str, Any]) -> Outcome | str:
        """The outcome, or why the worker failed."""
        try:
            with self.meter:
                answer = await worker.ask(item, self.setup.deadline_s)
        except WorkerFailedError as error:
            worker.kill()
            return str(error)
        except BaseException:
            worker.kill()
            raise
        self._idle.put_nowait(worker)
        return Outcome(
            status=OutcomeStatus(answer["status"]),
            score=answer["score"],
            reason=answer["reason"],
            answer=answer["answer"],
            verifier=item["verifier"],
        )

    async def _supervise(self, worker: Worker | None) -> None:
        """Keep one worker alive: start it, wait for its end, start the next."""
        failures = 0
        while True:
            try:
                worker = worker or await Worker.start(self.setup)
            except (SettingsError, WorkerFailedError, OSError) as error:
                log.warning("worker_not_started", error=str(error))
                await asyncio.sleep(RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)])
                failures += 1
                continue
            failures = 0
            self._running.add(worker)
            self._idle.put_nowait(worker)
            code = await worker.process.wait()
            self._running.discard(worker)
            self.killed += 1
            log.warning("worker_replaced", pid=worker.pid, exit_code=code)
            worker = None


def _summary(reasons: list[str]) -> str:
    distinct = list(dict.fromkeys(reasons))
    return f"{'; then '.join(distinct)} ({len(reasons)} attempts)"
