"""A run from its first evaluation to its last: restore, evaluate, train, checkpoint, close the ledger."""

import asyncio
import json
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path

import structlog

from oprime.core.types import Ticket
from oprime.lm.checkpoints import (
    CRITIC,
    PARTS,
    begin_part,
    checkpoint_root,
    complete_part,
    newest_for_run,
    prune_checkpoints,
    remove_newer,
)
from oprime.ports import STREAMS, Clock, Metrics, Queue, QueueDepth, WeightStore
from oprime.runtime.consume import patiently
from oprime.runtime.errors import NotReadyError, OprimeError
from oprime.runtime.in_order import START_FROM
from oprime_coordinator.bottleneck import bottleneck, busy_shares
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.evaluation import Evaluator
from oprime_coordinator.metrics_file import MetricsFile
from oprime_coordinator.restore import Restored, restore_from_checkpoint, restore_from_queue
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.state import STATE, CoordinatorState
from oprime_coordinator.step_statistics import export_step

log = structlog.get_logger()

LEASE = "coordinator"
LEASE_S = 10.0
EVALUATE_AGAIN_S = 2.0


class RunState(StrEnum):
    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    SERVING = "serving"


class Coordinate:
    """Holds the run together; the decisions are in `RunLoop`."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        queue: Queue,
        clock: Clock,
        metrics: Metrics,
        loop: RunLoop,
        evaluator: Evaluator,
        metrics_file: MetricsFile,
        store: WeightStore,
        *,
        owner: str,
    ) -> None:
        self._settings = settings
        self._parts = (*PARTS, CRITIC) if settings.algorithm.needs_critic else PARTS
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self.loop = loop
        self._evaluator = evaluator
        self._file = metrics_file
        self._store = store
        self.owner = owner
        self._to_evaluate: asyncio.Queue[int] = asyncio.Queue()
        self._checkpoints: set[asyncio.Task[None]] = set()
        self._began = clock.now()
        self._elapsed_before = max((float(str(row["elapsed_s"])) for row in metrics_file.rows), default=0.0)
        self._reports: dict[str, dict[str, float]] = {}
        self._busy: dict[str, float] = {}
        self._failure: BaseException | None = None
        """Why a checkpoint could not be saved; ends the run."""
        self.run_state = RunState.STARTING
        self.newest_metrics: dict[str, float] = {}
        self.bottleneck = ""
        self.depths: list[QueueDepth] = []

    # The run

    async def take_lease(self, stopping: asyncio.Event) -> None:
        """Wait until no other coordinator owns the run."""
        while not stopping.is_set() and not await patiently(self._take_turn, self._clock):
            log.info("standing_by", reason="another coordinator owns the run")
            await self._clock.sleep(1.0)

    async def keep_lease(self) -> None:
        while True:
            await self._clock.sleep(LEASE_S / 4)
            if not await patiently(self._take_turn, self._clock):
                raise NotReadyError(f"another coordinator took over run {self._settings.run.name}: this one stops")

    async def _take_turn(self) -> bool:
        return await self._queue.take_turn(LEASE, self.owner, seconds=LEASE_S)

    async def restore(self) -> None:
        """Rebuild the run's state, then let the stateful services start."""
        restored = await restore_from_queue(self._queue)
        if restored is None:
            restored = await self._restore_from_files()
        await self.loop.begin(restored)

    async def _restore_from_files(self) -> Restored:
        """Go back to the newest checkpoint that is complete, or to the beginning; what came after it never was."""
        root = checkpoint_root(self._settings.run.folder)
        step, directory = newest_for_run(root, self._parts) or (0, None)
        remove_newer(root, step)
        self._store.prune(keep=set(range(step + 1)), newest=0)
        self._file.forget_after(step)
        if directory is None:
            state = CoordinatorState()
            await self._queue.commit("begin", values={STATE: state.to_bytes(), START_FROM: b"0"})
            return Restored(state=state)
        return await restore_from_checkpoint(self._queue, directory / "coordinator", step, self._ticket_again)

    def _ticket_again(self, group_id: int) -> Ticket:
        ticket = self.loop.ticket(group_id)
        if ticket is None:
            raise OprimeError(
                f"group {group_id} was issued, but its prompt is now longer than sampling.max_prompt_tokens: restore that setting"
            )
        return ticket

    async def run(self, stopping: asyncio.Event) -> None:
        """Everything between `restore` and FINISHED."""
        if not self._file.evaluated(0) and self.loop.state.committed_step == 0:
            self.run_state = RunState.EVALUATING
            await self._evaluate_surely(0)
        self.run_state = RunState.TRAINING
        evaluating = asyncio.create_task(self._evaluate_asked())
        try:
            await self.loop.run(stopping)
        finally:
            evaluating.cancel()
        if stopping.is_set():
            return
        self.run_state = RunState.EVALUATING
        await self.loop.close_ledger()
        if not self._file.evaluated(self._settings.run.steps):
            await self._evaluate_surely(self._settings.run.steps)
        await asyncio.gather(*self._checkpoints)
        await self._save_checkpoint(self._settings.run.steps)
        self.run_state = RunState.FINISHED
        log.info("finished", step=self.loop.state.committed_step, ledger=await self._queue.ledger_counts())

    def note_step(self, step: int, metrics: dict[str, float]) -> None:
        """A train step was committed: write its row, ask for the evaluation and the checkpoint that are due."""
        run = self._settings.run
        if step > self._file.last_step():
            own = {
                "rollouts": float(self.loop.state.rollouts),
                "tokens": float(self.loop.state.tokens),
                "prompts": float(self.loop.state.next_group_id - self.loop.passed_over),
                "acceptance_rate": self.loop.state.acceptance_rate,
                **{f"busy_{stage}": share for stage, share in self._busy.items()},
            }
            self._append({"kind": "step", "step": step, **metrics, **own})
        self._metrics.gauge("last_step_timestamp_seconds", time.time())
        export_step(self._metrics, metrics)
        if run.evaluate_every and step % run.evaluate_every == 0 and step != run.steps and not self._file.evaluated(step):
            self._to_evaluate.put_nowait(step)
        if step % run.checkpoint_every == 0 and step != run.steps:
            task = asyncio.create_task(self._save_checkpoint(step))
            self._checkpoints.add(task)
            task.add_done_callback(self._checkpoint_ended)

    def _checkpoint_ended(self, task: asyncio.Task[None]) -> None:
        self._checkpoints.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    def _append(self, row: dict[str, object]) -> None:
        self._file.append({**row, "elapsed_s": self._elapsed_before + self._clock.now() - self._began})
        self.newest_metrics |= {name: value for name, value in row.items() if isinstance(value, float)}

    # Evaluation

    async def _evaluate_asked(self) -> None:
        while True:
            step = await self._to_evaluate.get()
            try:
                await self._evaluate(step)
            except OprimeError as error:
                log.warning("evaluation_failed", step=step, error=str(error))

    async def _evaluate_surely(self, step: int) -> None:
        """Try until it succeeds: a generator with a large model needs minutes to start."""
        while True:
            try:
                await self._evaluate(step)
            except NotReadyError as error:
                log.warning("evaluation_failed", step=step, error=str(error))
                await self._clock.sleep(EVALUATE_AGAIN_S)
            else:
                return

    async def _evaluate(self, step: int) -> None:
        if not self._evaluator.has_problems:
            log.warning("not_evaluated", step=step, reason="tasks.heldout names no held-out tasks")
            return
        evaluation = await self._evaluator.evaluate(step)
        self._append({"kind": "evaluation", **asdict(evaluation)})
        log.info("evaluated", **asdict(evaluation))

    # Checkpoints

    async def _save_checkpoint(self, step: int) -> None:
        """The ledger and cursor as they are once `step` is committed. Older complete checkpoints are pruned."""
        root = checkpoint_root(self._settings.run.folder)
        ledger = {rollout_id: state async for rollout_id, state in self._queue.ledger_entries()}
        state = self.loop.state
        await asyncio.to_thread(_write_part, root, step, state, ledger)
        await asyncio.to_thread(prune_checkpoints, root, self._parts, self._settings.run.keep_checkpoints)

    # Watching

    async def watch(self) -> None:
        """Queue depths, who waits for whom, and the gauges that follow from them."""
        while True:
            await self._clock.sleep(self._settings.run.heartbeat_s * 2)
            if self._failure is not None:
                raise self._failure
            self.depths = [await patiently(lambda name=name: self._queue.depth(name), self._clock) for name in STREAMS]
            self._metrics.gauge("tickets_live", len(self.loop.open) + len(self.loop.ready))
            for depth in self.depths:
                self._metrics.gauge("queue_lag_entries", depth.waiting, stream=depth.stream)
                self._metrics.gauge("queue_pending_entries", depth.pending, stream=depth.stream)
                self._metrics.gauge("queue_oldest_seconds", depth.oldest_s, stream=depth.stream)
            reports: dict[str, dict[str, float]] = {}
            for stage in ("generator", "verifier", "prm", "learner"):
                values = await patiently(lambda stage=stage: self._queue.values(f"{stage}/"), self._clock)
                reports |= {name: json.loads(value) for name, value in values.items()}
            self._busy = busy_shares(self._reports, reports) or self._busy
            self.bottleneck = bottleneck(self._busy)
            self._reports = reports


def _write_part(root: Path, step: int, state: CoordinatorState, ledger: dict[str, str]) -> None:
    part = begin_part(root, step, "coordinator")
    (part / "state.json").write_bytes(state.to_bytes())
    (part / "ledger.json").write_text(json.dumps(ledger), encoding="utf-8")
    complete_part(part, step)
