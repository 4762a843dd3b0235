"""The whole loop, synchronous beside asynchronous, in one run: python -m bench.loop [CONFIG] [--size small|large] [--steps N].

Trains the same config with staleness bounds 0 and 2 through the real services and prints rollouts/s, tokens/s, the seconds that each
stage was at work, its CPU time, and what bounds the loop; then the queue's own cost per rollout on the real Redis. `small` is the demo;
`large` a model of eleven million random weights whose responses have up to 64 tokens, so that computing outweighs everything else.
Machines differ and are noisy: compare the columns of one run.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench import large
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.types import FinishReason, Rollout, Task, VerificationTask, VerifiedRollout, WeightVersionSpan, sampled, untrained
from oprime.core.verification import correct
from oprime.ports import BATCHES, LIVE, ROLLOUTS, SCORED, TICKETS, VERDICTS, LedgerMove, Output
from oprime.runtime.rollout_payloads import material_of, material_owner, read_rollouts, rewards_owner, write_rollouts
from oprime.runtime.setting_rules import SERVICES
from oprime.wire.codec import event_to_proto, verification_task_to_proto
from oprime_cli.overrides import load_config

WARM_UP_STEPS = 3
BOUNDS = (0, 2)
QUEUE_GROUPS = 200
GROUP_SIZE = 4
TOKENS = 10
"""Of a prompt, and of a response."""
STAGES = ("generator", "verifier", "prm", "learner")
REDIS, OTHERS = "redis", "others"
NO_END_IN_SIGHT = 1000
"""Steps that the run has beyond those that are measured: near its end less is sampled."""
LOOK_EVERY_S = 0.1
STOP_WITHIN_S = 60.0
SATURATED = 0.9
"""From this share of the cores on, they bound the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """Of the steps after the first ones."""

    max_staleness: int
    steps: int
    seconds: float
    sampled_rollouts: float
    sampled_tokens: float
    trained_rollouts: float
    trained_tokens: float
    seconds_prm: float
    """Per step at work, as are the two below."""
    seconds_learner: float
    seconds_publish: float
    wait_s_learner: float
    busy: dict[str, float]
    """Share of the time that each stage had work under way."""
    cpu: dict[str, float]
    """CPU seconds of each service and its processes, of Redis and of all others."""
    cores: int

    @property
    def rollouts_per_second(self) -> float:
        return self.trained_rollouts / self.seconds

    @property
    def cores_used(self) -> float:
        return sum(self.cpu.values()) / self.seconds

    @property
    def bound(self) -> str:
        """What a faster loop would need more of."""
        busiest = max(self.busy, key=lambda stage: self.busy[stage])
        if self.cores_used >= SATURATED * self.cores:
            most = max(self.cpu, key=lambda stage: self.cpu[stage])
            return f"the cores ({self.cores_used:.2f} of {self.cores} at work), most of all {most}"
        return f"{busiest} ({self.busy[busiest]:.0%} of the time; {self.cores_used:.2f} of {self.cores} cores at work)"


def run_loop(config: Path, overrides: Mapping[str, Any], *, steps: int) -> LoopResult:
    """Train `steps` steps. The first ones, which wait for first calls, are left out; then the run is stopped."""
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        settings = dict(overrides) | {"run.directory": folder, "run.steps": steps + NO_END_IN_SIGHT, "run.evaluate_every": 0}
        sets = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        chosen = load_config(config, sets)
        command = [
            sys.executable,
            "-m",
            "oprime_cli.main",
            "train",
            str(config),
            "--fresh",
            *(part for text in sets for part in ("--set", text)),
        ]
        log = Path(folder) / "train.log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as training:
            try:
                rows, cpu = watched(training, Path(folder) / chosen.run.name / "metrics.jsonl", steps=steps)
            finally:
                stop(training)
        if len(rows) < steps:
            raise SystemExit(f"the run ended after {len(rows)} of {steps} steps:\n{log.read_text(encoding='utf-8')[-2000:]}")
    per_step = chosen.coordinator.groups_per_batch * chosen.sampling.group_size
    return summarise(rows, cpu, bound=chosen.staleness.max_staleness, rollouts_per_step=per_step, cores=len(os.sched_getaffinity(0)))


def stop(training: subprocess.Popen[bytes]) -> None:
    """In order, as SIGTERM does; the services of a run that is killed end by themselves."""
    training.terminate()
    try:
        training.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        training.kill()


def watched(training: subprocess.Popen[bytes], metrics: Path, *, steps: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The rows of the first `steps` steps, or of fewer where the run ended before; and the CPU seconds that were used by each of them."""
    cpu: list[dict[str, float]] = []
    rows: list[dict[str, float]] = []
    while len(rows) < steps and training.poll() is None:
        time.sleep(LOOK_EVERY_S)
        rows = step_rows(metrics)
        if len(rows) > len(cpu):
            cpu += [cpu_seconds(training.pid)] * (len(rows) - len(cpu))
    return rows[:steps], cpu[:steps]


def step_rows(metrics: Path) -> list[dict[str, float]]:
    if not metrics.exists():
        return []
    whole = metrics.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [row for row in map(json.loads, whole) if row["kind"] == "step"]


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU seconds so far of the processes below `pid`, by the service that started them."""
    found: dict[str, float] = {}
    _add_cpu(psutil.Process(pid), OTHERS, found)
    return found


def _add_cpu(process: psutil.Process, owner: str, found: dict[str, float]) -> None:
    try:
        words = process.cmdline()
        owner = next((name for name in SERVICES if f"oprime_{name}" in words), owner)
        owner = REDIS if words and "redis-server" in words[0] else owner
        times = process.cpu_times()
        found[owner] = found.get(owner, 0.0) + times.user + times.system
        children = process.children()
    except psutil.Error:
        return
    for child in children:
        _add_cpu(child, owner, found)


def summarise(
    rows: Sequence[Mapping[str, float]], cpu: Sequence[Mapping[str, float]], *, bound: int, rollouts_per_step: int, cores: int
) -> LoopResult:
    """`cpu` has one entry per row."""
    first, last, timed = rows[WARM_UP_STEPS - 1], rows[-1], rows[WARM_UP_STEPS:]

    def mean(name: str) -> float:
        return statistics.fmean(row.get(name, 0.0) for row in timed)

    return LoopResult(
        max_staleness=bound,
        steps=len(timed),
        seconds=last["elapsed_s"] - first["elapsed_s"],
        sampled_rollouts=last["rollouts"] - first["rollouts"],
        sampled_tokens=last["tokens"] - first["tokens"],
        trained_rollouts=rollouts_per_step * len(timed),
        trained_tokens=sum(row["trained_tokens"] for row in timed),
        seconds_prm=mean("seconds_prm"),
        seconds_learner=mean("seconds_learner"),
        seconds_publish=mean("seconds_publish"),
        wait_s_learner=mean("wait_s_learner"),
        busy={stage: mean(f"busy_{stage}") for stage in STAGES},
        cpu={name: seconds - cpu[WARM_UP_STEPS - 1].get(name, 0.0) for name, seconds in cpu[-1].items()},
        cores=cores,
    )


async def queue_seconds_per_rollout() -> float:
    """What a rollout costs in the queue alone, from its ticket to its train step's commit, payloads included."""
    folder = Path(tempfile.mkdtemp(prefix="oprime-bench-"))
    server = LocalRedis.start(folder)
    try:
        queue = RedisQueue.connect(server.url, run="bench", lease_s=30, max_deliveries=3)
        payloads = RedisPayloads.connect(server.url, run="bench")
        started = time.perf_counter()
        for group in range(QUEUE_GROUPS):
            await _one_group(queue, payloads, group)
        seconds = time.perf_counter() - started
        await queue.close()
        payloads.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return seconds / (QUEUE_GROUPS * GROUP_SIZE)


async def _one_group(queue: RedisQueue, payloads: RedisPayloads, group: int) -> None:
    ids = [f"{group}:{index}" for index in range(GROUP_SIZE)]
    posed = Task(messages=(), verifier="chain", ground_truth="1", data_source="chain")
    material = payloads.put(material_owner(group), material_of(posed.verification("")))
    await queue.commit(
        f"issue:{group}",
        outputs=[Output(stream=TICKETS, key=str(group), payload=b"ticket")],
        moves=[LedgerMove(rollout_id=name, state=LIVE) for name in ids],
    )
    tickets = await queue.receive(TICKETS, "generator", most=1, wait_s=1)
    records = write_rollouts(payloads, [_rollout(group, index) for index in range(GROUP_SIZE)])
    tasks = [VerificationTask(rollout=record, material=material) for record in records]
    outputs = [
        Output(stream=ROLLOUTS, key=name, payload=verification_task_to_proto(task).SerializeToString())
        for name, task in zip(ids, tasks, strict=True)
    ]
    await queue.commit(f"generate:{group}", outputs=outputs, consumed=tickets)
    payloads.get_many([material])
    for delivery, record in zip(await queue.receive(ROLLOUTS, "verifier", most=GROUP_SIZE, wait_s=1), records, strict=True):
        payloads.get_many([record.text])
        event = VerifiedRollout(rollout=record, outcome=correct())
        output = Output(stream=VERDICTS, key=delivery.key, payload=event_to_proto(event).SerializeToString())
        await queue.commit(f"verify:{delivery.key}", outputs=[output], consumed=[delivery])
    verdicts = await queue.receive_held(VERDICTS, "coordinator", most=GROUP_SIZE, wait_s=1)
    batch = b"".join(delivery.payload for delivery in verdicts)
    await queue.commit(f"cut:{group}", outputs=[Output(stream=BATCHES, key=str(group), payload=batch)], consumed=verdicts)
    payloads.delete([material])
    batches = await queue.receive_held(BATCHES, "prm", most=1, wait_s=1)
    read_rollouts(payloads, records)
    rewards = payloads.put(rewards_owner(group), bytes(GROUP_SIZE * (16 + 4 * TOKENS)))
    await queue.commit(f"score:{group}", outputs=[Output(stream=SCORED, key=str(group), payload=batch)], consumed=batches)
    scored = await queue.receive_held(SCORED, "learner", most=1, wait_s=1)
    read_rollouts(payloads, records)
    payloads.get_many([rewards])
    moves = [LedgerMove(rollout_id=name, state=f"trained:{group}") for name in ids]
    await queue.commit(f"train:{group}", moves=moves, consumed=scored)
    payloads.delete([rewards, *(name for record in records for name in record.payloads)])


def _rollout(group: int, index: int) -> Rollout:
    tokens = np.arange(TOKENS)
    turn = sampled(tokens, np.zeros(TOKENS), [WeightVersionSpan(start=0, end=TOKENS, version=0)])
    return Rollout(
        group_id=group,
        index=index,
        seed=index,
        segments=(untrained(tokens), *turn),
        text="=1 =6 =2 =3 =4 =5 =6 =8 #8",
        finish_reason=FinishReason.STOP,
    )


def report(results: Sequence[LoopResult], queue_s: float) -> str:
    """A table with one column per staleness bound, what bounds each, and ratios."""
    lines = [f"{'':34}" + "".join(f"{f'S = {one.max_staleness}':>12}" for one in results)]

    def row(name: str, values: Sequence[float], digits: int = 3) -> None:
        lines.append(f"{name:34}" + "".join(f"{value:12.{digits}f}" for value in values))

    row("rollouts sampled per second", [one.sampled_rollouts / one.seconds for one in results])
    row("rollouts trained per second", [one.rollouts_per_second for one in results])
    row("response tokens sampled per second", [one.sampled_tokens / one.seconds for one in results], 0)
    row("response tokens trained per second", [one.trained_tokens / one.seconds for one in results], 0)
    row("seconds per step", [one.seconds / one.steps for one in results])
    for name in ("seconds_prm", "seconds_learner", "seconds_publish", "wait_s_learner"):
        row(name, [getattr(one, name) for one in results])
    for stage in STAGES:
        row(f"{stage}: seconds busy per step", [one.busy[stage] * one.seconds / one.steps for one in results])
        row(f"{stage}: share of the wall time", [one.busy[stage] for one in results], 2)
    for name in sorted({name for one in results for name in one.cpu}):
        row(f"{name}: CPU seconds per step", [one.cpu.get(name, 0.0) / one.steps for one in results])
    row("cores at work", [one.cores_used for one in results], 2)
    lines += [f"S = {one.max_staleness} is bound by {one.bound}" for one in results]
    first, last = results[0], results[-1]
    ratio = last.rollouts_per_second / first.rollouts_per_second
    lines.append(f"rollouts trained per second, S = {last.max_staleness} over S = {first.max_staleness}: {ratio:.2f}x")
    share = queue_s * last.sampled_rollouts / last.seconds
    lines.append(f"queue cost per rollout, all stages: {queue_s * 1e3:.2f} ms ({share:.1%} of one core at S = {last.max_staleness})")
    return "\n".join(lines)


def large_overrides(model: Path, bound: int, cores: int) -> dict[str, Any]:
    """At S = 0 the stages take turns, so each gets all cores; else two of three compute at any time."""
    threads = cores if bound == 0 else max(1, cores // 2)
    return {"model.path": str(model), "staleness.max_staleness": bound} | {
        f"{section}.threads": threads for section in ("generator", "prm", "learner")
    }


def measured(arguments: argparse.Namespace) -> list[LoopResult]:
    if arguments.size == "small":
        config = arguments.config or Path("deploy/config/demo.toml")
        steps = arguments.steps or 25
        return [run_loop(config, {"run.name": f"bench-s{bound}", "staleness.max_staleness": bound}, steps=steps) for bound in BOUNDS]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        model = Path(folder) / "model"
        large.save_model(model)
        config, steps = arguments.config or large.CONFIG, arguments.steps or 10
        return [run_loop(config, large_overrides(model, bound, cores), steps=steps) for bound in BOUNDS]


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description="The whole loop, synchronous beside asynchronous.")
    parser.add_argument("config", nargs="?", type=Path, help="other settings than those of the size")
    parser.add_argument("--size", choices=("small", "large"), default="small", help="the demo, or a model of eleven million weights")
    parser.add_argument("--steps", type=int, help="steps per staleness bound: 25 of the small size, 10 of the large one")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps {options.steps} leaves nothing to measure after {WARM_UP_STEPS} steps of warm-up: give more")
    results = measured(options)
    print(report(results, asyncio.run(queue_seconds_per_rollout())))


if __name__ == "__main__":
    main(sys.argv[1:])
