"""A run from its first evaluation to its last: restore, evaluate, train, checkpoint, close the ledger."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path

import structlog

from oprime.core.group_filter import FILTER_REASONS
from oprime.core.response_lengths import long_ones_are_lost, rollouts_by_length
from oprime.core.types import Ticket
from oprime.lm.checkpoints import (
    begin_part,
    checkpoint_root,
    complete_part,
    newest_for_run,
    parts_of,
    prune_checkpoints,
    remove_newer,
)
from oprime.ports import STREAMS, Clock, Metrics, Queue, Snapshot, WeightStore
from oprime.runtime.consume import patiently
from oprime.runtime.errors import NotReadyError, OprimeError
from oprime.runtime.lease import Lease
from oprime.runtime.metrics_file import MetricsFile
from oprime.runtime.run_end import say_finished
from oprime.runtime.tracking import Tracking
from oprime_coordinator.benchmarks import Benchmarks
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.evaluation import Evaluator
from oprime_coordinator.groups import LOSS_STATES
from oprime_coordinator.restore import Restore, Restored
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.sampled import sampled_rollouts
from oprime_coordinator.state import STATE
from oprime_coordinator.step_statistics import export_step
from oprime_coordinator.sweep import Sweep
from oprime_coordinator.watch import Watch

log = structlog.get_logger()

LEASE = "coordinator"
EVALUATE_AGAIN_S = 2.0
CHECK_SERVER_S = 60.0
"""How often the queue's server is asked whether it still keeps everything."""
LENGTHS_OF_STEPS = 32
"""Rows of metrics over which response lengths are compared, and steps until a warning about them is repeated."""


class RunState(StrEnum):
    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    SERVING = "serving"


class Coordinate:
    """Holds the run together; the decisions are in `RunLoop`."""

    _said_failed: tuple[int, str] = (-1, "")
    """Step and reason of the evaluation that was last said to have failed."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        queue: Queue,
        clock: Clock,
        metrics: Metrics,
        loop: RunLoop,
        evaluator: Evaluator,
        benchmarks: Benchmarks,
        metrics_file: MetricsFile,
        store: WeightStore,
        sweep: Sweep,
        *,
        queue_error: Callable[[], str] = str,
        track: Callable[[int], Tracking] = lambda _done: Tracking(),
    ) -> None:
        """`queue_error` says why the queue does not work now, or nothing. `track` opens the trackers of a run that has taken so many
        steps."""
        self._settings = settings
        self._parts = parts_of(settings.algorithm)
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self.loop = loop
        self._evaluator = evaluator
        self._benchmarks = benchmarks
        self._file = metrics_file
        self._store = store
        self.sweep = sweep
        self._track = track
        self._tracking = Tracking()
        self.lease = Lease(queue, clock, LEASE)
        """A run has one coordinator at a time."""
        self._to_evaluate: asyncio.Queue[int] = asyncio.Queue()
        self._to_benchmark: asyncio.Queue[int] = asyncio.Queue()
        self._checkpoints: set[asyncio.Task[None]] = set()
        self._began = clock.now()
        self._elapsed_before = max((float(str(row["elapsed_s"])) for row in metrics_file.rows), default=0.0)
        self.seen = Watch(settings, queue, clock, metrics, loop, queue_error=queue_error)
        self._warn_from_step = 0
        self._evaluation = ""
        """What an evaluation is doing, or waits for."""
        self._failure: BaseException | None = None
        """Why a checkpoint could not be saved; ends the run."""
        self.run_state = RunState.STARTING
        self.newest_metrics: dict[str, float] = {}
        self._show_what_is_known()

    @property
    def run_state(self) -> RunState:
        return self._run_state

    @run_state.setter
    def run_state(self, state: RunState) -> None:
        self._run_state = state
        for one in RunState:
            self._metrics.gauge("run_state", float(one is state), state=one.value)

    def _show_what_is_known(self) -> None:
        """Before anything happened: the bounds, and that nothing was counted."""
        self._metrics.gauge("planned_steps", self._settings.run.steps)
        self._metrics.gauge("staleness_bound", self._settings.staleness.max_staleness)
        self._metrics.gauge("last_step_timestamp_seconds", time.time())
        self._metrics.count("train_steps_total", 0)
        for stream in STREAMS:
            self._metrics.count("queue_dead_letters_total", 0, stream=stream)
        for reason in FILTER_REASONS:
            self._metrics.count("groups_filtered_total", 0, reason=reason)
        for state in LOSS_STATES:
            self._metrics.count("groups_dropped_total", 0, reason=state.removeprefix("dropped:"))

    # The run

    async def restore(self) -> None:
        """Rebuild the run's state, then let the stateful services start."""
        fence = self.lease.fence
        restore = Restore(self._settings, self._queue, self._clock, fence)
        restored = await restore.from_queue() or await self._restore_from_files(restore)
        await self.loop.begin(restored, fence)
        self._metrics.gauge("committed_step", self.loop.state.committed_step)

    async def _restore_from_files(self, restore: Restore) -> Restored:
        """Go back to the newest checkpoint that is complete, or to the beginning; what came after it never was."""
        root = checkpoint_root(self._settings.run.folder)
        step, directory = newest_for_run(root, self._parts) or (0, None)
        remove_newer(root, step)
        self._store.prune(keep=set(range(step + 1)), newest=0)
        self._file.forget_after(step)
        self._benchmarks.forget_after(step)
        if directory is None:
            return await restore.afresh()
        return await restore.from_checkpoint(directory / "coordinator", step, self._ticket_again)

    async def _ticket_again(self, group_id: int) -> Ticket:
        ticket = await self.loop.ticket(group_id)
        if ticket is None:
            raise OprimeError(
                f"group {group_id} was issued, but its prompt cannot be sampled from any more: restore the tasks' files and "
                "sampling.max_prompt_tokens as they were"
            )
        return ticket

    async def run(self, stopping: asyncio.Event) -> None:
        """Everything between `restore` and FINISHED."""
        self._tracking = await asyncio.to_thread(self._track, self.loop.state.committed_step)
        if self.loop.state.committed_step == 0:
            self.run_state = RunState.EVALUATING
            await self._evaluate_all(0)
        self.run_state = RunState.TRAINING
        # What came before belongs to no step.
        self.seen.busy_since_last_step()
        if self._is_due(self.loop.state.committed_step):
            # It was asked for, but whoever coordinated ended before there was an answer.
            self._to_evaluate.put_nowait(self.loop.state.committed_step)
        if self._benchmarks_are_due(self.loop.state.committed_step):
            # Likewise. Those that have a row are passed over.
            self._to_benchmark.put_nowait(self.loop.state.committed_step)
        evaluating = [asyncio.create_task(self._evaluate_asked()), asyncio.create_task(self._benchmark_asked())]
        try:
            await self.loop.run(stopping)
        finally:
            for task in evaluating:
                task.cancel()
        if stopping.is_set():
            return
        self.run_state = RunState.EVALUATING
        await self.loop.close_ledger()
        await patiently(lambda: self.sweep.once(grace_s=0), self._clock)
        await self._evaluate_all(self._settings.run.steps)
        await asyncio.gather(*self._checkpoints)
        await self._save_checkpoint(self._settings.run.steps)
        await self.seen.look()
        self.run_state = RunState.FINISHED
        log.info("finished", step=self.loop.state.committed_step, ledger=self.seen.ledger)
        await say_finished(self._queue, self._settings.run.steps, self._clock)

    def note_step(self, step: int, metrics: dict[str, float]) -> None:
        """A train step was committed: write its row, ask for the evaluation and the checkpoint that are due."""
        run = self._settings.run
        if step > self._file.last_step():
            own = {
                "rollouts": float(self.loop.state.rollouts),
                "tokens": float(self.loop.state.tokens),
                "prompts": float(self.loop.state.next_group_id - self.loop.state.passed_over),
                **{f"busy_{stage}": share for stage, share in self.seen.busy_since_last_step().items()},
            }
            self._append({"kind": "step", "step": step, **metrics, **own})
            self._warn_of_lost_lengths(step)
        self._metrics.gauge("last_step_timestamp_seconds", time.time())
        export_step(self._metrics, step, metrics)
        if self._is_due(step):
            self._to_evaluate.put_nowait(step)
        if self._benchmarks_are_due(step):
            self._to_benchmark.put_nowait(step)
        if step % run.checkpoint_every == 0 and step != run.steps:
            task = asyncio.create_task(self._save_checkpoint(step))
            self._checkpoints.add(task)
            task.add_done_callback(self._checkpoint_ended)

    def _is_due(self, step: int) -> bool:
        """Whether an evaluation while the run goes on is still to come for a step. Those before the first and after the last have their
        own time."""
        run = self._settings.run
        asked = run.evaluate_every > 0 and step % run.evaluate_every == 0 and 0 < step < run.steps
        return asked and not self._file.evaluated(step)

    def _warn_of_lost_lengths(self, step: int) -> None:
        if step < self._warn_from_step:
            return
        warning = long_ones_are_lost(rollouts_by_length(self._file.rows[-LENGTHS_OF_STEPS:]))
        if warning:
            log.warning("long_responses_dropped", step=step, reason=warning)
            self._warn_from_step = step + LENGTHS_OF_STEPS

    def _checkpoint_ended(self, task: asyncio.Task[None]) -> None:
        self._checkpoints.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    def _benchmarks_are_due(self, step: int) -> bool:
        """Whether a step, neither the first nor the last, is followed by benchmarks."""
        run = self._settings.run
        return run.evaluate_on_every > 0 and step % run.evaluate_on_every == 0 and 0 < step < run.steps

    async def close(self) -> None:
        """Wait, not for ever, until trackers have what was said."""
        await asyncio.to_thread(self._tracking.close)

    def _append(self, row: dict[str, object]) -> None:
        self._file.append({**row, "elapsed_s": self._elapsed()})
        self._tracking.row(self._file.rows[-1])
        self.newest_metrics |= {name: value for name, value in row.items() if isinstance(value, float)}

    def _elapsed(self) -> float:
        return self._elapsed_before + self._clock.now() - self._began

    # Evaluation

    async def _evaluate_asked(self) -> None:
        """Evaluations while the run goes on: each is tried until it succeeds, is refused for good, or the next one is due."""
        while True:
            step = await self._to_evaluate.get()
            while not await self._evaluated_or_refused(step) and self._to_evaluate.empty():
                await self._clock.sleep(EVALUATE_AGAIN_S)

    async def _evaluated_or_refused(self, step: int) -> bool:
        """False where it may succeed later. The weights are then newer than the step's, and the row says which they were."""
        try:
            await self._evaluate(step)
        except OprimeError as error:
            self._evaluation = ""
            self._say_failed(step, str(error))
            return not isinstance(error, NotReadyError)
        return True

    async def _evaluate_all(self, step: int) -> None:
        """Held-out problems and benchmarks, while nothing is trained."""
        if not self._file.evaluated(step):
            await self._surely(self._evaluate, step)
        try:
            await self._surely(self._benchmark, step)
        except OprimeError as error:
            # Nothing of the training follows from a benchmark.
            log.error("benchmarks_failed", step=step, error=str(error))  # noqa: TRY400 - the message is for a person

    async def _surely(self, evaluate: Callable[[int], Awaitable[None]], step: int) -> None:
        """Try until it succeeds: a generator with a large model needs minutes to start."""
        while True:
            try:
                await evaluate(step)
            except NotReadyError as error:
                self._evaluation = f"waiting until it can be evaluated: {error}"
                self._say_failed(step, str(error))
                await self._clock.sleep(EVALUATE_AGAIN_S)
            else:
                self._evaluation = ""
                return

    def _say_failed(self, step: int, error: str) -> None:
        """Once, however often it is tried again with the same result."""
        if (step, error) != self._said_failed:
            log.warning("evaluation_failed", step=step, error=error)
            self._said_failed = (step, error)

    async def _evaluate(self, step: int) -> None:
        if not self._evaluator.has_problems:
            log.warning("not_evaluated", step=step, reason="tasks.heldout names no held-out tasks")
            return
        self._evaluation = self._evaluation or f"the evaluation after step {step} is under way"
        evaluation = await self._evaluator.evaluate(step)
        self._evaluation = ""
        self._append({"kind": "evaluation", **evaluation.numbers()})
        self._tracking.table(step, "evaluation/heldout", evaluation.table)
        samples = await asyncio.to_thread(sampled_rollouts, self._settings.run.folder, step, self._settings.tracking.rows)
        self._tracking.table(step, "samples/rollouts", samples)
        self._metrics.gauge("heldout_accuracy_ratio", evaluation.heldout_accuracy, sampling="temperature_1")
        self._metrics.gauge("heldout_accuracy_ratio", evaluation.heldout_greedy_accuracy, sampling="greedy")
        log.info("evaluated", **evaluation.numbers())

    async def _benchmark_asked(self) -> None:
        """Beside training. What fails is tried again, until the benchmarks are due after a later step."""
        while True:
            step = await self._to_benchmark.get()
            while True:
                try:
                    await self._benchmark(step)
                    break
                except OprimeError as error:
                    log.warning("benchmarks_failed", step=step, error=str(error))
                    if not isinstance(error, NotReadyError) or not self._to_benchmark.empty():
                        break
                await self._clock.sleep(EVALUATE_AGAIN_S)

    async def _benchmark(self, step: int) -> None:
        async for row in self._benchmarks.evaluate(step, but=self._file.benchmarked(step)):
            self._file.append({"kind": "benchmark", **row, "elapsed_s": self._elapsed()})
            self._tracking.row(self._file.rows[-1])
            self._metrics.gauge("benchmark_accuracy_ratio", float(row["accuracy"]), benchmark=str(row["benchmark"]))
            log.info("benchmarked", **row)

    # Checkpoints

    async def _save_checkpoint(self, step: int) -> None:
        """The ledger and cursor of one moment at which `step` was committed. Older complete checkpoints are pruned."""
        root = checkpoint_root(self._settings.run.folder)
        await self.lease.confirm()
        snapshot = await patiently(self._queue.snapshot, self._clock)
        await asyncio.to_thread(_write_part, root, step, snapshot)
        await asyncio.to_thread(prune_checkpoints, root, self._parts, self._settings.run.keep_checkpoints)

    # Watching

    async def watch(self) -> None:
        """Queue depths, who waits for whom, and the gauges that follow from them."""
        checked = self._clock.now()
        while True:
            if self._failure is not None:
                raise self._failure
            await self.look()
            if self._clock.now() - checked > CHECK_SERVER_S:
                await patiently(self._queue.check_server, self._clock)
                checked = self._clock.now()
            await self._clock.sleep(self._settings.run.heartbeat_s * 2)

    async def watch_progress(self) -> None:
        """Notice when the run stands still."""
        while True:
            await self._clock.sleep(min(1.0, self._settings.coordinator.stall_s / 4))
            self.look_for_progress()

    @property
    def at_rest(self) -> bool:
        """Whether the run has nothing to do: it has ended, or only serves."""
        return self.run_state in (RunState.FINISHED, RunState.SERVING)

    async def look(self) -> None:
        await self.seen.look(at_rest=self.at_rest)

    def look_for_progress(self) -> None:
        if self.at_rest:
            self.seen.stalled = ""
        else:
            position = (self.run_state, self._evaluator.judged, self._benchmarks.settled, len(self._file.rows))
            self.seen.look_for_progress(position, evaluation=self._evaluation)


def _write_part(root: Path, step: int, snapshot: Snapshot) -> None:
    part = begin_part(root, step, "coordinator")
    (part / "state.json").write_bytes(snapshot.values[STATE])
    (part / "ledger.json").write_text(json.dumps(dict(snapshot.ledger)), encoding="utf-8")
    complete_part(part, step)
