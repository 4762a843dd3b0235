"""Training by numbered steps: rank 0 leads from step to step, every rank takes them on its share; states between are resumed from."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import distributed

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.open_trackers import open_trackers, shown_settings
from oprime.adapters.rank_group import RankGroup
from oprime.ports import TrackedRun
from oprime.runtime.errors import SettingsError
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.runtime.settings import TrackingSection
from oprime.runtime.source_commit import git_commit
from oprime.runtime.training_settings import EngineSection
from oprime_cli.console import duration, say
from oprime_cli.model_training.files import Start
from oprime_cli.model_training.folder import ModelFolder
from oprime_cli.model_training.record import Record

SAY_EVERY_S = 5.0

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
AfterStep = Callable[[int, int, ResultT], None]
"""Hears of each step's number from 1, the number of steps, and the step's result."""


class StepTrainer(Protocol[ResultT_co]):
    """One rank's part of every step and evaluation."""

    def step(self, number: int) -> ResultT_co:
        """Step `number`, from 1; what comes of it depends on the engine's state and the number alone. Collective."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Generic[ResultT]):
    """What is the same on every rank."""

    name: str
    """As messages call it."""
    begins: str
    """What is said as it begins."""
    steps: int
    save_every: int
    folder: ModelFolder
    start: Start
    engine: DeepSpeedEngine
    trainer: StepTrainer[ResultT]
    shown: Callable[[ResultT], str]
    """A step's result for people."""
    numbers: Callable[[ResultT], Mapping[str, float]]
    """The same for metrics and trackers."""
    facts: Callable[[ResultT, Mapping[str, float]], Mapping[str, Any]]
    """What the finished model's record has of the last step's result and the last evaluation's."""
    tracking: TrackingSection
    document: Mapping[str, Any]
    """The settings, for trackers."""
    evaluate: Callable[[], Mapping[str, float]] | None = None
    """Numbers of the model as it stands, before the first step and after the last. Collective."""
    evaluate_every: int = 0
    """Steps between two evaluations; 0 is only those two."""

    def evaluates(self, step: int) -> bool:
        """Whether the model after `step` steps is evaluated."""
        if self.evaluate is None:
            return False
        return step in (0, self.steps) or (self.evaluate_every > 0 and step % self.evaluate_every == 0)


class Progress:
    """Says every few seconds how far the training is."""

    def __init__(self, done: int, shown: Callable[[Any], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._done = done
        self._shown = shown
        self._clock = clock
        self._began = self._said = clock()

    def __call__(self, step: int, steps: int, result: Any) -> None:
        now = self._clock()
        if now - self._said < SAY_EVERY_S and step < steps:
            return
        self._said = now
        spent = now - self._began
        left = spent / (step - self._done) * (steps - step)
        say(f"  step {step}/{steps}, {self._shown(result)}, {duration(spent)}" + (f", about {duration(left)} left" if left else ""))


class LastingGroup(RankGroup):
    """Ranks that part without ending torch's process groups: DeepSpeed knows only the first ones of a process, which may train again."""

    def close(self) -> None:
        self.barrier()


class RankMethods:
    """What all ranks do together, each call with the same payload. `by_name` is for `Ranks`."""

    def __init__(self, training: Training[Any]) -> None:
        self._training = training

    @property
    def by_name(self) -> Mapping[str, Callable[[bytes], Any]]:
        return {"load": self.load, "step": self.step, "evaluate": self.evaluate, "save": self.save, "finish": self.finish}

    def load(self, payload: bytes) -> None:
        """Take up the state in directory `payload`."""
        self._training.engine.load(Path(payload.decode()))

    def step(self, payload: bytes) -> Any:
        """Take step `payload`; returns its result."""
        return self._training.trainer.step(int(payload))

    def evaluate(self, _payload: bytes) -> Mapping[str, float]:
        """Numbers of the model as it stands."""
        return {} if self._training.evaluate is None else self._training.evaluate()

    def save(self, payload: bytes) -> None:
        """Save the state after step [0] of `payload` into the directory [1], which is begun."""
        step, directory = json.loads(payload)
        self._training.engine.save(Path(directory))
        if self._training.engine.rank == 0:
            self._training.folder.complete_state(Path(directory), step)

    def finish(self, payload: bytes) -> None:
        """Write the result, with the facts in `payload`, and free the engine."""
        engine, folder = self._training.engine, self._training.folder
        # What is frozen below adapters has the type that the model computes in.
        found = ((name, tensor.float() if tensor.is_floating_point() else tensor) for name, tensor in engine.weights(master=True))
        weights = {name: tensor for name, tensor in found if engine.rank == 0}
        if engine.rank == 0:
            folder.finish(lambda directory: self._training.start.write(directory, weights), json.loads(payload))
        engine.close()


def make(name: str, folder: ModelFolder, prepare: Callable[[], Training[ResultT]], after_step: AfterStep[ResultT] | None = None) -> Path:
    """Make a model, or find it finished; returns its directory. With several ranks, one rank's part of that.

    `after_step` is `Progress` by default. A training that was interrupted goes on from its last saved state and ends with the same
    weights. Raises SettingsError, CheckpointError, RunEndedError or BusyError.
    """
    if folder.finished():
        say(f"{name}: {folder.output} is finished already")
        return folder.output
    with folder.lock() if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
        asyncio.run(_train(prepare, after_step))
    return folder.output


def part_for_good() -> None:
    """End torch's process groups, whose threads must not outlive the interpreter. This process cannot train any more."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def require_devices(settings: EngineSection, section: str) -> None:
    """Raises SettingsError for a device that is not here."""
    gpus = torch.cuda.device_count()
    if settings.device == "cuda" and not gpus:
        raise SettingsError(f'{section}.device = "cuda", but torch sees no GPU here: set {section}.device = "auto" or "cpu"')
    if settings.device != "cpu" and 0 < gpus < settings.ranks:
        raise SettingsError(f"{section}.ranks = {settings.ranks}, but torch sees {gpus} GPUs here and each rank needs one: use fewer ranks")


async def _train(prepare: Callable[[], Training[ResultT]], after_step: AfterStep[ResultT] | None) -> None:
    training = prepare()
    group = LastingGroup(on_gpu=training.engine.device.type == "cuda")
    ranks = Ranks(group, RankMethods(training).by_name)
    if training.engine.rank != 0:
        await ranks.follow()
        return
    async with ranks:
        lifecycle = Lifecycle()
        await lifecycle.run(_lead(training, ranks, after_step, lifecycle.stopping), ranks.watch())


async def _lead(training: Training[ResultT], ranks: Ranks, after_step: AfterStep[ResultT] | None, finished: asyncio.Event) -> None:
    """Rank 0's part: all steps from the newest state on, and the states and the result that are left of them."""
    folder, done = training.folder, 0
    if newest := folder.newest_state():
        done, directory = newest
        await ranks.call("load", str(directory).encode())
    say(f"{training.begins}{f', from step {done}' if done else ''}")
    with contextlib.closing(_record(training, done)) as record:
        facts = await _steps(training, ranks, record, after_step or Progress(done, training.shown), done)
    # No state is saved after the last step, so there was one.
    await ranks.call("finish", json.dumps(facts).encode())
    say(f"{training.name}: wrote {folder.output}")
    finished.set()


async def _steps(training: Training[ResultT], ranks: Ranks, record: Record, after_step: AfterStep[ResultT], done: int) -> Mapping[str, Any]:
    """All steps that are left; returns what is to be known of the result."""
    evaluation: Mapping[str, float] = {}
    result: Any = None
    if done == 0 and training.evaluates(0):
        evaluation = await _evaluate(training, ranks, record, 0)
    for step in range(done + 1, training.steps + 1):
        result = await ranks.call("step", str(step).encode())
        record.step(step, training.numbers(result))
        if training.evaluates(step):
            evaluation = await _evaluate(training, ranks, record, step)
        if step % training.save_every == 0 and step < training.steps:
            await ranks.call("save", json.dumps([step, str(training.folder.begin_state(step))]).encode())
        after_step(step, training.steps, result)
    return training.facts(result, evaluation)


async def _evaluate(training: Training[Any], ranks: Ranks, record: Record, step: int) -> Mapping[str, float]:
    found = await ranks.call("evaluate", b"")
    record.evaluation(step, found)
    say(f"  after step {step}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items()))
    return found


def _record(training: Training[Any], done: int) -> Record:
    folder = training.folder
    run = TrackedRun(
        project=training.tracking.project,
        name=folder.output.name,
        directory=folder.tracking,
        settings=shown_settings(training.document),
        commit=git_commit(),
        done=done,
    )
    return Record(folder.rows, open_trackers(training.tracking, run), done)
