"""An evaluation while a run goes on: tried again until it succeeds, is refused for good, or the next one is due."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from fakes import NotingTracker
from oprime.adapters.memory_queue import MemoryQueue
from oprime.ports import WeightStore
from oprime.runtime.errors import NotReadyError, OprimeError
from oprime.runtime.metrics_file import MetricsFile
from oprime.runtime.tracking import Tracking
from oprime_coordinator.benchmarks import Benchmarks
from oprime_coordinator.coordinate import Coordinate
from oprime_coordinator.evaluation import Evaluation, Evaluator
from oprime_coordinator.sweep import Sweep
from simulation.world import AutoClock, NoMetrics, World

LAST = 29
"""A step whose evaluation never ends: when it is asked for, all before it have ended."""


class Attempts:
    """An evaluator of which a test says how each attempt ends."""

    has_problems = True
    judged = 0

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)
        self.asked: list[int] = []
        self.heard: asyncio.Queue[int] = asyncio.Queue()

    async def evaluate(self, step: int) -> Evaluation:
        self.heard.put_nowait(step)
        if step == LAST:
            await asyncio.Event().wait()
        self.asked.append(step)
        if self._ends and (end := self._ends.pop(0)) is not None:
            raise end
        row = {"problem": "8", "greedy response": "8", "greedy score": 1.0}
        return Evaluation(
            step=step, heldout_accuracy=0.5, heldout_greedy_accuracy=1.0, problems=1, answers=1, unverified=0,
            oldest_weight_version=step, newest_weight_version=step, seconds=0.0, table=(row,),
        )  # fmt: skip


def coordinate_of(folder: Path, evaluator: Attempts, notes: NotingTracker | None = None) -> Coordinate:
    world = World(seed=1, max_staleness=1, steps=30, folder=folder)
    queue = MemoryQueue(world.clock, lease_s=1000)
    world.use(queue)
    made = Coordinate(
        world.settings, queue, AutoClock(), NoMetrics(), world.new_loop(), cast("Evaluator", evaluator), cast("Benchmarks", None),
        MetricsFile(folder / "metrics.jsonl"), cast("WeightStore", None), cast("Sweep", None),
    )  # fmt: skip
    if notes is not None:
        made._tracking = Tracking({"notes": lambda: notes})
    return made


async def evaluated(coordinate: Coordinate, evaluator: Attempts, attempts: int, *steps: int) -> list[int]:
    """Let the coordinator evaluate until there were so many attempts; the steps that have a row."""
    for step in steps:
        coordinate._to_evaluate.put_nowait(step)
    working = asyncio.create_task(coordinate._evaluate_asked())
    for _ in range(attempts):
        await evaluator.heard.get()
    coordinate._to_evaluate.put_nowait(LAST)
    while await evaluator.heard.get() != LAST:
        pass
    working.cancel()
    return [int(str(row["step"])) for row in coordinate._file.rows if row["kind"] == "evaluation"]


async def test_one_that_fails_is_tried_again(tmp_path: Path) -> None:
    evaluator = Attempts(NotReadyError("starting"), NotReadyError("starting"), None)
    assert await evaluated(coordinate_of(tmp_path, evaluator), evaluator, 3, 10) == [10]
    assert evaluator.asked == [10, 10, 10]


async def test_one_that_is_refused_for_good_is_not(tmp_path: Path) -> None:
    evaluator = Attempts(OprimeError("the prompt has 99 tokens"), None)
    assert await evaluated(coordinate_of(tmp_path, evaluator), evaluator, 1, 10) == []
    assert evaluator.asked == [10]


async def test_one_that_still_fails_when_the_next_is_due_makes_room_for_it(tmp_path: Path) -> None:
    evaluator = Attempts(NotReadyError("starting"), None)
    assert await evaluated(coordinate_of(tmp_path, evaluator), evaluator, 2, 10, 20) == [20]
    assert evaluator.asked == [10, 20]


@pytest.mark.parametrize(("every", "step", "due"), [(10, 10, True), (10, 11, False), (0, 10, False), (10, 30, False), (10, 0, False)])
def test_what_is_due_is_due_until_it_has_a_row(tmp_path: Path, every: int, step: int, due: bool) -> None:
    coordinate = coordinate_of(tmp_path, Attempts())
    run = coordinate._settings.run.model_copy(update={"evaluate_every": every, "steps": 30})
    coordinate._settings = coordinate._settings.model_copy(update={"run": run})
    assert coordinate._is_due(step) == due
    coordinate._append({"kind": "evaluation", "step": step})
    assert not coordinate._is_due(step)


class AskedBenchmarks:
    """Benchmarks that only note for which steps they are asked for."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[int] = asyncio.Queue()

    async def evaluate(self, step: int, *, but: Sequence[str] = ()) -> AsyncIterator[dict[str, object]]:
        self.heard.put_nowait(step)
        for name in but:
            yield {"benchmark": name}


async def test_benchmarks_under_way_when_the_coordinator_ended_are_asked_for_again_by_the_next(tmp_path: Path) -> None:
    coordinate, benchmarks = coordinate_of(tmp_path, Attempts()), AskedBenchmarks()
    run = coordinate._settings.run.model_copy(update={"evaluate_every": 0, "evaluate_on_every": 10, "steps": 30})
    coordinate._settings = coordinate._settings.model_copy(update={"run": run})
    coordinate._benchmarks = cast("Benchmarks", benchmarks)
    coordinate.loop.state = replace(coordinate.loop.state, next_step=11, committed_step=10)
    working = asyncio.create_task(coordinate.run(asyncio.Event()))
    assert await asyncio.wait_for(benchmarks.heard.get(), 10) == 10
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_trackers_get_its_numbers_its_table_and_the_steps_sampled_rollouts(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    notes = NotingTracker()
    evaluator = Attempts()
    coordinate = coordinate_of(tmp_path, evaluator, notes)
    samples = coordinate._settings.run.folder / "samples"
    samples.mkdir(parents=True)
    rollout = {"response": "=1", "outcome_reward": 1.0, "process_rewards": [0.25, 0.5], "finish_reason": "stop"}
    (samples / "step-000010.jsonl").write_text(json.dumps({"group_id": 7, "prompt": "3 +8 ?", "rollouts": [rollout, rollout]}) + "\n")
    await evaluated(coordinate, evaluator, 1, 10)
    await coordinate.close()
    numbers, table, rollouts, closed = notes.heard
    assert (numbers[0], numbers[1]["evaluation/heldout_accuracy"]) == (10, 0.5)
    assert table == (10, "evaluation/heldout", [{"problem": "8", "greedy response": "8", "greedy score": 1.0}])
    assert rollouts[:2] == (10, "samples/rollouts")
    assert rollouts[2][0] == {
        "group": 7, "prompt": "3 +8 ?", "response": "=1", "outcome reward": 1.0, "process return": 0.75, "tokens": 2,
        "finish reason": "stop",
    }  # fmt: skip
    assert len(rollouts[2]) == 2
    assert closed == "closed"


async def test_samples_that_cannot_be_read_cost_a_table_and_nothing_else(tmp_path: Path) -> None:
    evaluator, notes = Attempts(), NotingTracker()
    coordinate = coordinate_of(tmp_path, evaluator, notes)
    samples = coordinate._settings.run.folder / "samples"
    samples.mkdir(parents=True)
    (samples / "step-000010.jsonl").write_text('{"group_id": 7}\n')
    assert await evaluated(coordinate, evaluator, 1, 10) == [10]
    await coordinate.close()
    assert [heard[1] for heard in notes.heard[1:-1]] == ["evaluation/heldout"]
