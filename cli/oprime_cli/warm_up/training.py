"""Supervised warm-up: rank 0 leads from step to step, every rank takes them on its share of the demonstrations."""

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.rank_group import RankGroup
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import pad_token_id
from oprime.runtime.errors import SettingsError
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime_cli.console import duration, say
from oprime_cli.run_config import RunConfig, SftSection
from oprime_cli.warm_up.data import ChainDemonstrations, Demonstrations, Encoder, FileDemonstrations
from oprime_cli.warm_up.folder import SftFolder
from oprime_cli.warm_up.plan import WarmUp, plan_warm_up
from oprime_cli.warm_up.start import Start, load_start
from oprime_cli.warm_up.trainer import Trainer

SAY_EVERY_S = 5.0

AfterStep = Callable[[int, int, float], None]
"""Hears of each step's number from 1, the number of steps, and the loss in nats per trained token."""


class Progress:
    """Says every few seconds how far the training is."""

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._done = done
        self._clock = clock
        self._began = self._said = clock()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        now = self._clock()
        if now - self._said < SAY_EVERY_S and step < steps:
            return
        self._said = now
        spent = now - self._began
        left = spent / (step - self._done) * (steps - step)
        say(
            f"  step {step}/{steps}, loss {loss:.4f} nats per token, {duration(spent)}" + (f", about {duration(left)} left" if left else "")
        )


class LastingGroup(RankGroup):
    """Ranks that part without ending torch's process groups: DeepSpeed knows only the first ones of a process, which may train again."""

    def close(self) -> None:
        self.barrier()


class RankMethods:
    """What all ranks do together, each call with the same payload. `by_name` is for `Ranks`."""

    def __init__(self, engine: DeepSpeedEngine, trainer: Trainer, start: Start, folder: SftFolder) -> None:
        self._engine = engine
        self._trainer = trainer
        self._start = start
        self._folder = folder

    @property
    def by_name(self) -> Mapping[str, Callable[[bytes], Any]]:
        return {"load": self.load, "step": self.step, "save": self.save, "finish": self.finish}

    def load(self, payload: bytes) -> None:
        """Take up the state in directory `payload`."""
        self._engine.load(Path(payload.decode()))

    def step(self, payload: bytes) -> float:
        """Take step `payload`; returns its loss."""
        return self._trainer.step(int(payload))

    def save(self, payload: bytes) -> None:
        """Save the state after step [0] of `payload` into the directory [1], which is begun."""
        step, directory = json.loads(payload)
        self._engine.save(Path(directory))
        if self._engine.rank == 0:
            self._folder.complete_state(Path(directory), step)

    def finish(self, payload: bytes) -> None:
        """Write the result, with the facts in `payload`, and free the engine."""
        weights = {name: tensor for name, tensor in self._engine.weights(master=True) if self._engine.rank == 0}
        if self._engine.rank == 0:
            self._folder.finish(lambda directory: self._start.write(directory, weights), json.loads(payload))
        self._engine.close()


def train(config: RunConfig, *, after_step: AfterStep | None = None) -> Path:
    """Make the model that `[sft]` describes, or find it finished; returns its directory. With sft.ranks above 1, one rank's part of that.

    `after_step` is `Progress` by default. A run that was interrupted goes on from its last saved state and ends with the same weights.
    Raises SettingsError, CheckpointError, RunEndedError or RunBusyError.
    """
    plan = plan_warm_up(config)
    if plan.folder.finished():
        say(f"supervised warm-up: {plan.folder.output} is finished already")
        return plan.folder.output
    _require_devices(plan.settings)
    with plan.folder.lock() if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
        asyncio.run(_train(plan, after_step))
    return plan.folder.output


def part_for_good() -> None:
    """End torch's process groups, whose threads must not outlive the interpreter. This process cannot train any more."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _require_devices(settings: SftSection) -> None:
    gpus = torch.cuda.device_count()
    if settings.device == "cuda" and not gpus:
        raise SettingsError('sft.device = "cuda", but torch sees no GPU here: set sft.device = "auto" or "cpu"')
    if settings.device != "cpu" and 0 < gpus < settings.ranks:
        raise SettingsError(f"sft.ranks = {settings.ranks}, but torch sees {gpus} GPUs here and each rank needs one: use fewer ranks")


async def _train(plan: WarmUp, after_step: AfterStep | None) -> None:
    settings = plan.settings
    start = load_start(plan)
    demonstrations = _demonstrations(plan, Encoder(start.tokenizer, start.end_ids))
    model = TokenLogprobModel(start.model, settings.logprob_chunk_tokens, packing=settings.packing)
    engine = DeepSpeedEngine(model, settings, dtype=plan.config.model.dtype, name="warm-up")
    trainer = Trainer(engine, model.packing, settings, demonstrations, pad_id=pad_token_id(start.tokenizer))
    group = LastingGroup(on_gpu=engine.device.type == "cuda")
    ranks = Ranks(group, RankMethods(engine, trainer, start, plan.folder).by_name)
    if engine.rank != 0:
        await ranks.follow()
        return
    async with ranks:
        lifecycle = Lifecycle()
        await lifecycle.run(_lead(plan, ranks, after_step, lifecycle.stopping), ranks.watch())


async def _lead(plan: WarmUp, ranks: Ranks, after_step: AfterStep | None, finished: asyncio.Event) -> None:
    """Rank 0's part: all steps from the newest state on, and the states and the result that are left of them."""
    settings, folder = plan.settings, plan.folder
    done, loss = 0, math.nan
    if newest := folder.newest_state():
        done, directory = newest
        await ranks.call("load", str(directory).encode())
    begins = f", from step {done}" if done else ""
    say(f"supervised warm-up of {plan.start}: {settings.steps} steps of {settings.batch_rows} demonstrations{begins}")
    after_step = after_step or Progress(done)
    for step in range(done + 1, settings.steps + 1):
        loss = await ranks.call("step", str(step).encode())
        if step % settings.save_every == 0 and step < settings.steps:
            await ranks.call("save", json.dumps([step, str(folder.begin_state(step))]).encode())
        after_step(step, settings.steps, loss)
    await ranks.call("finish", json.dumps({"final_loss": loss}).encode())
    say(f"supervised warm-up: wrote {folder.output}")
    finished.set()


def _demonstrations(plan: WarmUp, encoder: Encoder) -> Demonstrations:
    settings = plan.settings
    if not settings.demonstrations:
        return ChainDemonstrations(plan.config.tasks.chain, settings.seed, encoder, settings.max_tokens)
    found = FileDemonstrations(settings, encoder)
    say(f"supervised warm-up: {len(found)} demonstrations in {settings.demonstrations}")
    return found
