"""One training run under faults, from its start to the verdict."""

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.faults import EVERYTHING, Fault, Kind
from chaos.keeper import Keeper, kept
from chaos.proxy import Mode
from chaos.verdict import (
    ledger_difference,
    ledger_violations,
    read_accounts,
    step_rows,
    step_violations,
    total_differences,
    weight_differences,
)
from oprime.adapters.redis_queue import RedisQueue
from oprime.lm.checkpoints import checkpoint_root, newest_complete, parts_of
from oprime.ports import STREAMS
from oprime_cli.overrides import load_config
from oprime_cli.paths import absolute_paths
from oprime_cli.run_config import RunConfig
from oprime_cli.running.coordinator_client import CoordinatorClient, is_finished
from oprime_cli.running.launch import free_ports
from oprime_cli.running.log_lines import last_error
from oprime_cli.running.run_folder import RunFolder

CONFIG = Path("deploy/config/demo.toml")
FAULT_LOG = "faults.log"
LOOK_EVERY_S = 0.1
STUCK_S = 90.0
"""A run is stuck if for so long all its services were healthy, nothing was done to it and no step was committed."""
NEVER_HEALTHY_S = 900.0
"""It also is if for so long no step was committed while services did not become healthy."""
ASK_HEALTH_EVERY_S = 5.0
STEPS_PER_FAULT = {0: 2, 2: 4}
"""Steps of a run for each of its faults, by staleness bound: enough for the last fault to strike before the end."""
LEAST_STEPS = 16
MODES = {Kind.CUT: Mode.CUT, Kind.FREEZE: Mode.FREEZE, Kind.LOST_ANSWERS: Mode.LOSE_ANSWERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """A fault that took place."""

    fault: Fault
    at_s: float
    """Seconds since the run began."""
    step: int
    """The last step that was committed then."""
    lost: tuple[str, ...] = ()
    """What the requests whose answers were lost were about."""

    def __str__(self) -> str:
        counts = Counter(self.lost)
        lost = f" ({', '.join(f'{number} x {subject}' for subject, number in counts.most_common())})" if counts else ""
        return f"{self.at_s:6.1f} s, after step {self.step}: {self.fault}{lost}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    max_staleness: int
    seed: int
    steps: int
    folder: Path
    struck: list[Struck] = field(default_factory=list[Struck])
    violations: list[str] = field(default_factory=list[str])
    ledger: dict[str, str] = field(default_factory=dict[str, str])
    """Rollout id -> state, at the end."""
    seconds: float = 0.0


def settings(model: Path, directory: Path, name: str, *, max_staleness: int, steps: int) -> RunConfig:
    """A small run of the demo's task: a step takes about a second, a response depends on its seed and weights alone."""
    overrides: dict[str, object] = {
        "run.name": name,
        "run.directory": str(directory),
        "run.steps": steps,
        "run.evaluate_every": 7,
        "run.checkpoint_every": 3,
        "model.path": str(model),
        "tasks.chain.operations": 2,
        "tasks.chain.heldout_problems": 4,
        "staleness.max_staleness": max_staleness,
        "coordinator.groups_per_batch": 4,
        "generator.backend": "transformers",
        "queue.lease_s": 2.0,
        # An entry may meet many faults here before it gets through.
        "queue.max_deliveries": 1000,
        "store.keep_versions": steps + 1,
    }
    return absolute_paths(load_config(CONFIG, [f"{key}={json.dumps(value)}" for key, value in overrides.items()]))


def steps_for(faults: int, max_staleness: int) -> int:
    return max(LEAST_STEPS, faults * STEPS_PER_FAULT[max_staleness])


async def run_under(config: RunConfig, faults: Sequence[Fault], *, seed: int, twin: Outcome | None = None) -> Outcome:
    """Train a run to its end under `faults`; a synchronous run is compared with its undisturbed `twin`."""
    folder = RunFolder(config.run.folder)
    shutil.rmtree(folder.path, ignore_errors=True)
    outcome = Outcome(max_staleness=config.staleness.max_staleness, seed=seed, steps=config.run.steps, folder=folder.path)
    began = time.monotonic()
    with free_ports(config.endpoints) as endpoints:
        config = config.model_copy(update={"endpoints": endpoints})
        async with kept(folder, config, seed=seed) as keeper:
            run = Disturbed(config, keeper, outcome.struck)
            try:
                await run.to_the_end(faults)
            except StuckError as error:
                outcome.violations += [str(error), *await run.state()]
            else:
                await judge(outcome, run.direct, twin)
        outcome.violations += [f"nobody killed it: {line}" for line in keeper.ended_by_themselves]
    outcome.seconds = time.monotonic() - began
    (folder.path / FAULT_LOG).write_text("".join(f"{one}\n" for one in outcome.struck), encoding="utf-8")
    return outcome


async def judge(outcome: Outcome, config: RunConfig, twin: Outcome | None) -> None:
    """Note all violations of a finished run, while its queue answers."""
    accounts = await read_accounts(config)
    outcome.ledger = accounts.ledger
    try:
        rows = step_rows(outcome.folder)
    except ValueError as error:
        outcome.violations.append(f"metrics.jsonl has a line that is no JSON: {error}")
        return
    outcome.violations += step_violations(rows, steps=outcome.steps, max_staleness=outcome.max_staleness)
    outcome.violations += ledger_violations(
        accounts, steps=outcome.steps, groups=config.coordinator.groups_per_batch, group_size=config.sampling.group_size
    )
    if twin is not None:
        outcome.violations += ledger_difference(twin.ledger, outcome.ledger)
        outcome.violations += total_differences(twin.folder, outcome.folder, steps=outcome.steps)
        outcome.violations += weight_differences(twin.folder, outcome.folder, steps=outcome.steps)


class StuckError(Exception):
    """Nothing moves any more although nothing is done to the run."""


class Disturbed:
    """A run at work, and what is done to it."""

    def __init__(self, config: RunConfig, keeper: Keeper, struck: list[Struck]) -> None:
        self.direct = config.model_copy(update={"queue": config.queue.model_copy(update={"url": keeper.redis.url})})
        """The run's settings with the way to Redis that no fault disturbs."""
        self._config = config
        self._keeper = keeper
        self._struck = struck
        self._began = self._moved = self._unhealthy = self._asked = time.monotonic()
        """When it began, when it last moved or was moved, when a service was last found unhealthy, when that was last asked."""
        self._step = 0
        self._stepped = asyncio.Event()
        """Set, and replaced, at each committed step."""
        self._finished = False
        self._coordinator = CoordinatorClient(config.endpoints.coordinator)

    async def to_the_end(self, faults: Sequence[Fault]) -> None:
        """Returns when the run is finished and its last checkpoint complete. Raises StuckError."""
        work = [asyncio.create_task(self._keeper.watch()), asyncio.create_task(self._disturb(faults))]
        try:
            while not self._finished:
                await asyncio.sleep(LOOK_EVERY_S)
                await self._look()
                for task in work:
                    if task.done():
                        task.result()
                await self._raise_if_stuck()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._keeper.ensure_redis()
            self._coordinator.close()

    async def _look(self) -> None:
        step = self._committed()
        if step > self._step:
            self._step, self._moved = step, time.monotonic()
            self._stepped.set()
            self._stepped = asyncio.Event()
        if step >= self._config.run.steps:
            newest = newest_complete(checkpoint_root(self._config.run.folder), parts_of(self._config.algorithm))
            whole = newest is not None and newest[0] == self._config.run.steps
            self._finished = whole and is_finished(await asyncio.to_thread(self._coordinator.status))

    async def _raise_if_stuck(self) -> None:
        now = time.monotonic()
        if now - self._asked < ASK_HEALTH_EVERY_S:
            return
        self._asked = now
        ill = await asyncio.to_thread(self._keeper.unhealthy)
        if ill:
            self._unhealthy = now
        if now - max(self._moved, self._unhealthy) > STUCK_S or now - self._moved > NEVER_HEALTHY_S:
            state = f"{', '.join(ill)} not healthy" if ill else "all services healthy"
            raise StuckError(f"stuck after step {self._step} of {self._config.run.steps} for {now - self._moved:.0f} s, {state}")

    def _committed(self) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return max((row["step"] for row in step_rows(self._config.run.folder)), default=0)
        # A line that is being written.
        return self._step

    async def _disturb(self, faults: Sequence[Fault]) -> None:
        """One fault after another; one whose victim is down already does not count."""
        for fault in faults:
            before = self._step
            while fault.after_step and self._step == before:
                await self._stepped.wait()
            await asyncio.sleep(fault.delay_s)
            at_s, step = time.monotonic() - self._began, self._step
            took_place, lost = await self._strike(fault)
            self._moved = time.monotonic()
            if took_place:
                self._struck.append(Struck(fault=fault, at_s=at_s, step=step, lost=lost))

    async def _strike(self, fault: Fault) -> tuple[bool, tuple[str, ...]]:
        if fault.kind is Kind.KILL:
            return self._keeper.kill(fault.victim, fault.seconds), ()
        links = [link for name, link in self._keeper.links.items() if fault.victim in (name, EVERYTHING)]
        for link in links:
            link.lost.clear()
            link.mode = MODES[fault.kind]
        await asyncio.sleep(fault.seconds)
        for link in links:
            link.mode = Mode.WORK
        return True, tuple(subject for link in links for subject in link.lost)

    async def state(self) -> list[str]:
        """Where a stuck run stands: queues, ledger, and the last words of every service."""
        queue = RedisQueue.of_run(self.direct.queue, self.direct.run.name)
        try:
            depths = [await queue.depth(stream) for stream in STREAMS]
            said = [f"ledger: {await queue.ledger_counts()}"]
        finally:
            await queue.close()
        said += [f"{one.stream}: {one.waiting} waiting, {one.pending} lent, oldest {one.oldest_s:.0f} s" for one in depths]
        logs = RunFolder(self._config.run.folder).logs
        return said + [f"{log.stem} says: {last_error(log)}" for log in sorted(logs.glob("*.log"))]
