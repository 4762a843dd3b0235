"""A run that stands still says so over gRPC, whatever its queue does."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.core.types import Task
from oprime.ports import BATCHES, LIVE, LedgerMove, Output, QueueDepth, WeightStore
from oprime.runtime.errors import NotReadyError, OprimeError, QueueUnavailableError
from oprime.runtime.metrics_file import MetricsFile
from oprime.runtime.queue_trouble import QueueTrouble
from oprime_coordinator.benchmarks import Benchmarks
from oprime_coordinator.coordinate import Coordinate, RunState
from oprime_coordinator.evaluation import Evaluator
from oprime_coordinator.servicer import CoordinatorServicer
from oprime_coordinator.sweep import Sweep
from oprime_coordinator.watch import Watch
from oprime_proto.v1 import coordinator_pb2 as pb
from simulation.world import NoMetrics, World

STALL_S = 30.0


class MovableQueue(MemoryQueue):
    """A queue that can be away."""

    away = False

    async def depth(self, stream: str) -> QueueDepth:
        if self.away:
            raise QueueUnavailableError("Redis at localhost:6379 does not answer")
        return await super().depth(stream)


class Run:
    """A coordinator beside whom nobody works but the test."""

    def __init__(self, folder: Path, benchmarks: "NoProblems | None" = None) -> None:
        self.metrics_file = MetricsFile(folder / "metrics.jsonl")
        world = World(seed=1, max_staleness=1, steps=3, folder=folder)
        self.clock = world.clock
        self.queue = MovableQueue(self.clock, lease_s=1000)
        trouble = QueueTrouble(self.queue)
        section = world.settings.coordinator.model_copy(update={"stall_s": STALL_S})
        self.world = world
        world.use(self.queue)
        world.settings = world.settings.model_copy(update={"coordinator": section})
        world.loop = world.new_loop()
        self.coordinate = Coordinate(
            world.settings, trouble.queue, self.clock, NoMetrics(), world.loop, cast("Evaluator", NoProblems()),
            cast("Benchmarks", benchmarks or NoProblems()), self.metrics_file, cast("WeightStore", None), cast("Sweep", None),
            queue_error=lambda: trouble.text,
        )  # fmt: skip
        self.coordinate.run_state = RunState.TRAINING

    async def report(self, replica: str, busy_s: float = 0.0) -> None:
        report = {"busy_seconds": busy_s, "idle_seconds": self.clock.now() - busy_s, "running_rollouts": 0}
        await self.queue.set_value(replica, json.dumps(report).encode())

    async def stand(self, seconds: float) -> None:
        """Time passes in which everybody but the generator reports."""
        for _ in range(round(seconds)):
            self.clock.time += 1
            for replica in ("verifier/a", "prm/0", "learner/0"):
                await self.report(replica)
            await self.coordinate.look()
            self.coordinate.look_for_progress()

    async def status(self) -> pb.CoordinatorServiceStatusResponse:
        return await CoordinatorServicer(self.coordinate, total_steps=3).Status(pb.CoordinatorServiceStatusRequest(), None)


class NoProblems:
    judged = settled = 0
    has_problems = False
    tasks: tuple[Task, ...] = ()

    async def evaluate(self, step: int, *, but: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        for _ in ():
            yield {}


class TwoBenchmarks(NoProblems):
    """The second cannot be evaluated: for now, or for good."""

    def __init__(self, *errors: OprimeError) -> None:
        self.errors = list(errors)
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    async def evaluate(self, step: int, *, but: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        self.asked.append((step, tuple(but)))
        if "first" not in but:
            yield {"step": step, "benchmark": "first", "accuracy": 0.5}
        if self.errors:
            raise self.errors.pop(0)
        yield {"step": step, "benchmark": "second", "accuracy": 0.25}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


async def test_a_generator_that_stopped_is_named_as_bottleneck_and_then_as_the_reason_of_the_standstill(run: Run) -> None:
    await run.report("generator/a")
    await run.world.begin()
    await run.world.loop.turn()
    tickets = (await run.queue.depth("tickets")).waiting
    assert tickets > 0
    await run.stand(STALL_S - 5)
    found = await run.status()
    assert found.bottleneck == f"generator: no report for {STALL_S - 6:.0f} s, {tickets} tickets waiting"
    assert found.stalled == ""
    with structlog.testing.capture_logs() as logs:
        await run.stand(2 * STALL_S)
    found = await run.status()
    assert f"{tickets} tickets are with generator/a: no report for" in found.stalled
    assert f"{tickets} groups wait for the rest of their rollouts" in found.stalled
    # After 30 and after 60 of 85 s.
    assert [entry["event"] for entry in logs].count("run_stalled") == 2
    # A rollout arrives: the run moves again.
    await run.world.generator_turn()
    while run.world.sampling:
        await run.world.generator_turn()
    await run.world.verifier_turn()
    await run.world.loop.turn()
    await run.stand(1)
    assert (await run.status()).stalled == ""


async def test_a_queue_that_is_away_does_not_silence_the_coordinator(run: Run) -> None:
    await run.world.begin()
    await run.world.loop.turn()
    await run.stand(1)
    issued = (await run.status()).ledger["issued"]
    run.queue.away = True
    await run.stand(STALL_S + 2)
    found = await run.status()
    assert found.stalled.endswith("(coordinator.stall_s = 30): Redis at localhost:6379 does not answer")
    assert found.bottleneck == "queue: Redis at localhost:6379 does not answer"
    assert found.ledger["issued"] == issued > 0


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.SERVING])
async def test_a_run_that_has_nothing_to_do_does_not_stand_still(run: Run, state: RunState) -> None:
    run.coordinate.run_state = state
    await run.stand(2 * STALL_S)
    assert (await run.status()).stalled == ""


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.SERVING])
async def test_nobody_waits_in_a_run_that_has_nothing_to_do_whoever_answers_requests_meanwhile(run: Run, state: RunState) -> None:
    run.coordinate.run_state = RunState.TRAINING
    for second in range(4):
        run.clock.time += 1
        await run.report("prm/0", busy_s=second / 2)
        await run.coordinate.look()
    assert (await run.status()).bottleneck == "prm"
    run.coordinate.run_state = state
    for second in range(4, 8):
        run.clock.time += 1
        await run.report("prm/0", busy_s=second / 2)
        await run.coordinate.look()
        assert (await run.status()).bottleneck == ""


async def test_without_a_prm_a_batch_waits_for_the_learner_alone(run: Run) -> None:
    algorithm = run.world.settings.algorithm.model_copy(update={"process_weight": 0.0})
    settings = run.world.settings.model_copy(update={"algorithm": algorithm})
    watch = Watch(settings, run.queue, run.clock, NoMetrics(), run.world.loop, queue_error=str)
    await run.queue.commit("cut:1", outputs=[Output(stream=BATCHES, key="1", payload=b"")])
    await watch.look()
    assert [depth.stream for depth in watch.depths] == ["tickets", "rollouts", "verdicts", "batches", "steps"]
    assert watch.bottleneck == "learner: no report yet, 1 batch waiting"


async def test_the_shares_of_a_step_end_with_it_although_the_look_before_was_earlier(run: Run) -> None:
    watch = run.coordinate.seen
    run.clock.time = 100.0
    await run.report("learner/0", busy_s=0.0)
    await watch.look()
    watch.busy_since_last_step()
    run.clock.time = 106.0
    await run.report("learner/0", busy_s=0.0)
    await watch.look()
    # At work for the last 2 of 8 s; the step ends before the next look.
    run.clock.time = 108.0
    await run.report("learner/0", busy_s=2.0)
    await watch.look_at_reports()
    assert watch.busy_since_last_step() == {"learner": 0.25}


async def test_prometheus_sees_who_waits_for_whom_and_each_state_of_the_ledger(run: Run) -> None:
    metrics = PrometheusMetrics()
    watch = Watch(run.world.settings, run.queue, run.clock, metrics, run.world.loop, queue_error=str)
    live = LedgerMove(rollout_id="1:0", state=LIVE)
    await run.queue.commit("issue:1", moves=[live], outputs=[Output(stream=BATCHES, key="1", payload=b"")])
    for replica in ("generator/a", "verifier/a", "learner/0"):
        await run.report(replica)
    await watch.look()
    await run.queue.commit("drop:1", moves=[LedgerMove(rollout_id="1:0", state="dropped:stale")])
    await watch.look()
    page = metrics.render()[0].decode()
    assert watch.bottleneck.startswith("prm: no report yet")
    assert 'oprime_bottleneck{stage="prm"} 1.0' in page
    assert 'oprime_bottleneck{stage="generator"} 0.0' in page
    assert 'oprime_ledger_rollouts{state="live"} 0.0' in page
    assert 'oprime_ledger_rollouts{state="dropped:stale"} 1.0' in page


async def before_training(run: Run) -> list[tuple[object, object]]:
    """What a run is evaluated on before its first step; it is told to stop at once."""
    await run.world.begin()
    stopping = asyncio.Event()
    stopping.set()
    await run.coordinate.run(stopping)
    return [(row["benchmark"], row["accuracy"]) for row in run.metrics_file.rows if row["kind"] == "benchmark"]


async def test_a_benchmark_that_failed_is_tried_again_and_those_that_are_done_are_not(tmp_path: Path) -> None:
    benchmarks = TwoBenchmarks(NotReadyError("the generator is starting"))
    assert await before_training(Run(tmp_path, benchmarks)) == [("first", 0.5), ("second", 0.25)]
    assert benchmarks.asked == [(0, ()), (0, ("first",))]


async def test_a_failure_that_lasts_is_said_once(tmp_path: Path) -> None:
    benchmarks = TwoBenchmarks(
        *(NotReadyError(text) for text in ("the generator is starting", "the generator is starting", "no weights yet"))
    )
    with structlog.testing.capture_logs() as logs:
        await before_training(Run(tmp_path, benchmarks))
    assert len(benchmarks.asked) == 4
    assert [entry["error"] for entry in logs if entry["event"] == "evaluation_failed"] == ["the generator is starting", "no weights yet"]


async def test_a_benchmark_that_fails_for_good_does_not_stop_the_run(tmp_path: Path) -> None:
    benchmarks = TwoBenchmarks(OprimeError("the disk is full"))
    with structlog.testing.capture_logs() as logs:
        assert await before_training(Run(tmp_path, benchmarks)) == [("first", 0.5)]
    assert [(entry["event"], entry["error"]) for entry in logs if entry["log_level"] == "error"] == [
        ("benchmarks_failed", "the disk is full")
    ]
