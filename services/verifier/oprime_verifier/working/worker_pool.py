"""Worker processes that judge requests: one item each at a time, killed at the deadline and replaced."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import structlog

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.ports import Metrics
from oprime.runtime.errors import NotReadyError, SettingsError
from oprime.runtime.heartbeat import BusyMeter
from oprime_verifier.external.results import BROKEN_CONTRACT
from oprime_verifier.ports import VerifierDescription
from oprime_verifier.working.frames import outcome_from_json, request_to_json
from oprime_verifier.working.worker import Worker, WorkerFailedError, WorkerSetup

log = structlog.get_logger()

RESTART_BACKOFF_S = (0.1, 0.5, 2.0, 10.0)


class WorkerPool:
    """`workers` processes of one setup. `start` before the first `judge`, `close` at the end."""

    def __init__(self, setup: WorkerSetup, *, workers: int, attempts: int, metrics: Metrics | None = None) -> None:
        self.setup = setup
        self.workers = workers
        self.attempts = attempts
        self.verifiers: dict[str, VerifierDescription] = {}
        """The verifiers in each worker by name, known after `start`."""
        self.meter = BusyMeter(metrics)
        """At work while any worker judges."""
        self.killed = 0
        """Workers that were replaced since the start."""
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._running: set[Worker] = set()
        self._supervisors: list[asyncio.Task[None]] = []
        self._exchanges: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Return when one worker is ready; the others follow. Raises SettingsError for a plug-in that cannot be used."""
        first = await Worker.start(self.setup)
        self.verifiers = {known["name"]: VerifierDescription(**known) for known in first.verifiers}
        self._running.add(first)
        self._supervisors = [asyncio.create_task(self._supervise(first if slot == 0 else None)) for slot in range(self.workers)]

    @property
    def ready_workers(self) -> int:
        return sum(worker.alive for worker in self._running)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._running if worker.alive)

    async def judge(self, request: VerificationRequest) -> Outcome:
        """Judge one request. An INFRA_ERROR is tried `attempts` times, within the request's deadline if it has one.

        Raises NotReadyError before `start`.
        """
        started, reasons, judged_s = time.monotonic(), list[str](), 0.0
        for _ in range(self.attempts):
            deadline_s = request.deadline_s - (time.monotonic() - started) if request.deadline_s else self.setup.deadline_s
            if deadline_s <= 0:
                break
            # The worker stops by itself; the parent's own deadline is for one that hangs.
            answer, seconds = await self._ask({"request": request_to_json(replace(request, deadline_s=deadline_s))}, deadline_s)
            judged_s += seconds
            outcome = _failure(answer) if isinstance(answer, str) else _outcome(answer)
            if outcome.verdict is not Verdict.INFRA_ERROR or BROKEN_CONTRACT in outcome.flags:
                return outcome
            reasons.append(outcome.reason)
            log.warning("verification_failed", verifier=request.kind, data_source=request.data_source, reason=outcome.reason)
        return replace(_failure(_summary(reasons)), timings={"judge": judged_s})

    async def self_test(self, deadline_s: float) -> dict[str, Any]:
        """The sandbox's report from one worker. Raises NotReadyError when it cannot be had."""
        answer, _ = await self._ask({}, deadline_s)
        if isinstance(answer, str):
            raise NotReadyError(f"the sandbox's self-test failed: {answer}")
        return answer["report"]

    async def close(self) -> None:
        """Kill every worker and wait for its end."""
        tasks: list[asyncio.Task[Any]] = [*self._supervisors, *self._exchanges]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._running:
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in self._running))
        self._running.clear()
        self._supervisors = []

    async def _ask(self, item: dict[str, Any], deadline_s: float) -> tuple[dict[str, Any] | str, float]:
        """A worker's answer, or why it failed; and the seconds that it took, without those until a worker was free."""
        if not self._supervisors:
            raise NotReadyError("the verifier has no worker yet: retry")
        worker = await self._take()
        # Shielded: when the caller gives up, the worker still finishes its item or is killed at the deadline.
        exchange = asyncio.create_task(self._run(worker, item, deadline_s))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        started = time.monotonic()
        return await asyncio.shield(exchange), time.monotonic() - started

    async def _take(self) -> Worker:
        while True:
            worker = await self._idle.get()
            if worker.alive:
                return worker

    async def _run(self, worker: Worker, item: dict[str, Any], deadline_s: float) -> dict[str, Any] | str:
        try:
            with self.meter:
                answer = await worker.ask(item, deadline_s)
        except WorkerFailedError as error:
            worker.kill()
            return str(error)
        except BaseException:
            worker.kill()
            raise
        self._idle.put_nowait(worker)
        return answer

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
            code = await worker.ended()
            self._running.discard(worker)
            self.killed += 1
            log.warning("worker_replaced", pid=worker.pid, exit_code=code)
            worker = None


class PooledVerifier:
    """One verifier of a pool. With `owned`, the pool is closed with it."""

    def __init__(self, pool: WorkerPool, name: str, *, owned: bool = False) -> None:
        self._pool = pool
        self._name = name
        self._owned = owned

    async def verify(self, request: VerificationRequest) -> Outcome:
        return await self._pool.judge(replace(request, kind=self._name))

    def describe(self) -> VerifierDescription:
        return self._pool.verifiers[self._name]

    async def close(self) -> None:
        if self._owned:
            await self._pool.close()


def _outcome(answer: dict[str, Any]) -> Outcome:
    try:
        return outcome_from_json(answer["outcome"])
    except (KeyError, TypeError, ValueError) as error:
        return _failure(f"the worker sent what is no outcome: {error}")


def _failure(reason: str) -> Outcome:
    return unscored(Verdict.INFRA_ERROR, reason, cacheable=False)


def _summary(reasons: list[str]) -> str:
    distinct = list(dict.fromkeys(reasons))
    return f"{'; then '.join(distinct)} ({len(reasons)} attempts)"
