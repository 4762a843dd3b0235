"""What the coordinator sees of the run around it: queues, reports, who waits for whom, and whether anything moves."""

import json
from collections.abc import Callable

import structlog

from oprime.ports import SCORED, STREAMS, Clock, Metrics, Queue, QueueDepth
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.heartbeat import silent_after_s
from oprime_coordinator.bottleneck import STAGES, Reports, StepBusy, bottleneck, taken, waited_for, work_of
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.stall import Situation, StallWatch, stalled

log = structlog.get_logger()


class Watch:
    """Holds what was seen last: it can be asked also while the queue does not answer."""

    def __init__(
        self, settings: CoordinatorSettings, queue: Queue, clock: Clock, metrics: Metrics, loop: RunLoop, *, queue_error: Callable[[], str]
    ) -> None:
        """`queue_error` says why the queue does not work now, or nothing."""
        self._settings = settings.coordinator
        self._has_prm = settings.algorithm.needs_prm
        self._streams = [name for name in STREAMS if name != SCORED or self._has_prm]
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._loop = loop
        self._queue_error = queue_error
        self._silent_s = silent_after_s(settings.run.heartbeat_s)
        self._reports = Reports(silent_s=self._silent_s)
        self._busy = StepBusy()
        self._progress = StallWatch(self._settings.stall_s)
        self.depths: list[QueueDepth] = []
        self.ledger: dict[str, int] = {}
        self._states: set[str] = set()
        """All that the ledger has had: one that is empty again has 0 rollouts."""
        self.bottleneck = ""
        self.stalled = ""
        """Why nothing moves; empty while something does."""

    async def look(self, *, at_rest: bool = False) -> None:
        """Look at everything once. While the queue is away it keeps what it saw last, and says so.

        `at_rest`: the run has nothing to do, so nobody waits for anybody, whoever works at requests meanwhile.
        """
        try:
            depths = [await self._queue.depth(name) for name in self._streams]
            self.ledger = await self._queue.ledger_counts()
            await self._read_reports()
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
            self.bottleneck = f"queue: {error}"
            return
        self._show(depths)
        shares = self._busy.lately(self._reports.reporting)
        self.bottleneck = "" if at_rest else bottleneck(self._reports.replicas, self._work(), shares, silent_s=self._silent_s)
        for stage in taken(has_prm=self._has_prm):
            self._metrics.gauge("bottleneck", float(stage in waited_for(self.bottleneck)), stage=stage)

    async def look_at_reports(self) -> None:
        """Before a step row is written: so that its shares end with the step, not with the look before."""
        try:
            await self._read_reports()
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))

    async def _read_reports(self) -> None:
        values = [await self._queue.values(f"{stage}/") for stage in STAGES]
        self._reports.look(self._clock.now(), {name: json.loads(value) for found in values for name, value in found.items()})
        self._busy.look(self._reports.reporting)

    def _show(self, depths: list[QueueDepth]) -> None:
        self.depths = depths
        self._metrics.gauge("tickets_live", len(self._loop.open) + len(self._loop.ready))
        for depth in depths:
            self._metrics.gauge("queue_lag_entries", depth.waiting, stream=depth.stream)
            self._metrics.gauge("queue_pending_entries", depth.pending, stream=depth.stream)
            self._metrics.gauge("queue_oldest_seconds", depth.oldest_s, stream=depth.stream)
        self._states |= self.ledger.keys()
        for state in self._states:
            self._metrics.gauge("ledger_rollouts", self.ledger.get(state, 0), state=state)

    def busy_since_last_step(self) -> dict[str, float]:
        """Shares of time at work by stage, since this was asked last: once per step row, and once before the first."""
        shares = self._busy.row(self._reports.reporting)
        for stage, share in shares.items():
            self._metrics.gauge("busy_ratio", share, stage=stage)
        return shares

    def look_for_progress(self, position: object, *, evaluation: str) -> None:
        """Say why nothing moves once it has stood for coordinator.stall_s; asks nobody, so it speaks also while the queue is away.

        Call it about every second. `position` changes with whatever moves besides the run loop; `evaluation` says what one waits for.
        """
        loop, now_s = self._loop, self._clock.now()
        arrived = sum(len(group.deliveries) for group in loop.open.values())
        quiet_s = self._progress.quiet_s(now_s, (position, loop.state, arrived, len(loop.open), len(loop.ready)))
        self.stalled = stalled(quiet_s, self._situation(evaluation))
        self._metrics.gauge("stalled", float(bool(self.stalled)))
        if self.stalled and self._progress.is_due(now_s):
            log.warning("run_stalled", reason=self.stalled, step=loop.state.committed_step)

    def _work(self) -> dict[str, int]:
        state = self._loop.state
        return work_of(self.depths, uncommitted=state.next_step - 1 - state.committed_step, has_prm=self._has_prm)

    def _situation(self, evaluation: str) -> Situation:
        return Situation(
            limit_s=self._settings.stall_s,
            silent_s=self._silent_s,
            queue_error=self._queue_error(),
            evaluation=evaluation,
            replicas=self._reports.replicas,
            work=self._work(),
            open_groups=len(self._loop.open),
            ready_groups=len(self._loop.ready),
            groups_per_batch=self._settings.groups_per_batch,
        )
