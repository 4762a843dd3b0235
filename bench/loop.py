"""The whole loop, synchronous beside asynchronous, in one run: python -m bench.loop [CONFIG] [--steps N].

Trains the same config with staleness bounds 0 and 2 through the real services and prints rollouts/s, learner tokens/s, seconds
per phase and how busy each stage was; then the queue's own cost per rollout on the real Redis. Machines differ and are
noisy: compare the columns of one run.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.types import FinishReason, Rollout, Task, VerificationTask, VerifiedRollout, WeightVersionSpan
from oprime.core.verification import correct
from oprime.ports import BATCHES, LIVE, ROLLOUTS, SCORED, TICKETS, VERDICTS, LedgerMove, Output
from oprime.wire.codec import event_to_proto, verification_task_to_proto

WARM_UP_STEPS = 3
BOUNDS = (0, 2)
QUEUE_GROUPS = 200
GROUP_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    max_staleness: int
    steps: int
    rollouts_per_second: float
    learner_tokens_per_second: float
    seconds_per_step: float
    seconds_prm: float
    seconds_learner: float
    seconds_publish: float
    wait_s_learner: float
    busy: dict[str, float]


def run_loop(config: Path, bound: int, steps: int) -> LoopResult:
    """Train `steps` steps with one staleness bound; figures leave out the first steps, which wait for first calls."""
    name = f"bench-s{bound}"
    with tempfile.TemporaryDirectory(prefix="oprime-bench-") as folder:
        settings = {
            "run.name": name,
            "run.directory": folder,
            "run.steps": steps,
            "run.evaluate_every": 0,
            "staleness.max_staleness": bound,
        }
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        command = [sys.executable, "-m", "oprime_cli.main", "train", str(config), "--fresh", *sets]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(folder) / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return summarise(bound, [row for row in rows if row["kind"] == "step"])


def summarise(bound: int, rows: list[dict[str, float]]) -> LoopResult:
    first, last, timed = rows[WARM_UP_STEPS - 1], rows[-1], rows[WARM_UP_STEPS:]
    seconds = last["elapsed_s"] - first["elapsed_s"]

    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in timed)

    stages = ("generator", "verifier", "prm", "learner")
    return LoopResult(
        max_staleness=bound,
        steps=len(timed),
        rollouts_per_second=(last["rollouts"] - first["rollouts"]) / seconds,
        learner_tokens_per_second=sum(row["trained_tokens"] for row in timed) / seconds,
        seconds_per_step=seconds / len(timed),
        seconds_prm=mean("seconds_prm"),
        seconds_learner=mean("seconds_learner"),
        seconds_publish=mean("seconds_publish"),
        wait_s_learner=mean("wait_s_learner"),
        busy={stage: statistics.fmean(row.get(f"busy_{stage}", 0.0) for row in timed) for stage in stages},
    )


async def queue_seconds_per_rollout() -> float:
    """What a rollout costs in the queue alone, from its ticket to its train step's commit, payloads included."""
    folder = Path(tempfile.mkdtemp(prefix="oprime-bench-"))
    server = LocalRedis.start(folder)
    try:
        queue = RedisQueue.connect(server.url, run="bench", lease_s=30, max_deliveries=3)
        started = time.perf_counter()
        for group in range(QUEUE_GROUPS):
            await _one_group(queue, group)
        seconds = time.perf_counter() - started
        await queue.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return seconds / (QUEUE_GROUPS * GROUP_SIZE)


async def _one_group(queue: RedisQueue, group: int) -> None:
    rollouts = [_rollout(group, index) for index in range(GROUP_SIZE)]
    ids = [rollout.rollout_id for rollout in rollouts]
    await queue.commit(
        f"issue:{group}",
        outputs=[Output(stream=TICKETS, key=str(group), payload=b"ticket")],
        moves=[LedgerMove(rollout_id=name, state=LIVE) for name in ids],
    )
    tickets = await queue.receive(TICKETS, "generator", most=1, wait_s=1)
    posed = Task(messages=(), verifier="chain", ground_truth="1", data_source="chain")
    tasks = [VerificationTask(rollout=rollout, request=posed.verification(rollout.text)) for rollout in rollouts]
    outputs = [
        Output(stream=ROLLOUTS, key=name, payload=verification_task_to_proto(task).SerializeToString())
        for name, task in zip(ids, tasks, strict=True)
    ]
    await queue.commit(f"generate:{group}", outputs=outputs, consumed=tickets)
    for delivery in await queue.receive(ROLLOUTS, "verifier", most=GROUP_SIZE, wait_s=1):
        event = VerifiedRollout(rollout=rollouts[0], outcome=correct())
        output = Output(stream=VERDICTS, key=delivery.key, payload=event_to_proto(event).SerializeToString())
        await queue.commit(f"verify:{delivery.key}", outputs=[output], consumed=[delivery])
    verdicts = await queue.receive_held(VERDICTS, "coordinator", most=GROUP_SIZE, wait_s=1)
    batch = b"".join(delivery.payload for delivery in verdicts)
    await queue.commit(f"cut:{group}", outputs=[Output(stream=BATCHES, key=str(group), payload=batch)], consumed=verdicts)
    batches = await queue.receive_held(BATCHES, "prm", most=1, wait_s=1)
    await queue.commit(f"score:{group}", outputs=[Output(stream=SCORED, key=str(group), payload=batch)], consumed=batches)
    scored = await queue.receive_held(SCORED, "learner", most=1, wait_s=1)
    moves = [LedgerMove(rollout_id=name, state=f"trained:{group}") for name in ids]
    await queue.commit(f"train:{group}", moves=moves, consumed=scored)


def _rollout(group: int, index: int) -> Rollout:
    tokens = 10
    return Rollout(
        group_id=group,
        index=index,
        seed=index,
        prompt_ids=np.arange(tokens, dtype=np.int32),
        response_ids=np.arange(tokens, dtype=np.int32),
        text="=1 =6 =2 =3 =4 =5 =6 =8 #8",
        behaviour_logprobs=np.zeros(tokens, dtype=np.float32),
        spans=(WeightVersionSpan(start=0, end=tokens, version=0),),
        finish_reason=FinishReason.STOP,
    )


def report(results: list[LoopResult], queue_s: float) -> str:
    """A table with one column per staleness bound, and the bottleneck of each."""
    names = (
        "rollouts_per_second", "learner_tokens_per_second", "seconds_per_step", "seconds_prm", "seconds_learner", "seconds_publish",
        "wait_s_learner",
    )  # fmt: skip
    lines = [f"{'':28}" + "".join(f"{f'S = {result.max_staleness}':>12}" for result in results)]
    lines += [f"{name:28}" + "".join(f"{getattr(result, name):12.3f}" for result in results) for name in names]
    for stage in results[0].busy:
        lines.append(f"{f'idle share, {stage}':28}" + "".join(f"{1 - result.busy[stage]:12.2f}" for result in results))
    ratio = results[-1].rollouts_per_second / results[0].rollouts_per_second
    lines.append(f"rollouts/s, S = {results[-1].max_staleness} over S = {results[0].max_staleness}: {ratio:.2f}x")
    lines += [f"bottleneck at S = {one.max_staleness}: {max(one.busy, key=lambda stage: one.busy[stage])}" for one in results]
    share = queue_s * results[-1].rollouts_per_second
    lines.append(f"queue cost per rollout, all stages: {queue_s * 1e3:.2f} ms ({share:.1%} of one core at S = {results[-1].max_staleness})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole loop, synchronous beside asynchronous.")
    parser.add_argument("config", nargs="?", type=Path, default=Path("deploy/config/demo.toml"))
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    results = [run_loop(arguments.config, bound, arguments.steps) for bound in BOUNDS]
    print(report(results, asyncio.run(queue_seconds_per_rollout())))


if __name__ == "__main__":
    main()
