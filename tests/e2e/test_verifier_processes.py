"""Four verifier processes on one queue, with one of them killed again and again: every rollout is judged exactly once."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tomli_w

from oprime.adapters.local_redis import LocalRedis, find_server
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.types import Task, VerificationTask, VerifiedRollout
from oprime.ports import LIVE, ROLLOUTS, VERDICTS, LedgerMove, Output
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.rollout_payloads import material_of, material_owner, write_rollouts
from oprime.wire.codec import event_from_proto, verification_task_to_proto
from oprime_proto.v1 import common_pb2 as pb
from rollouts import single_turn

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

RUN = "killed"
PROCESSES = 4
WAIT_S = 240.0
ADDITION = json.dumps({"inputs": ["1 2\n", "30 12\n"], "outputs": ["3\n", "42\n"]})
ADD, SUBTRACT = "a, b = map(int, input().split())\nprint(a + b)", "a, b = map(int, input().split())\nprint(a - b)"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[LocalRedis]:
    try:
        find_server()
    except QueueUnavailableError as error:
        pytest.skip(str(error))
    with LocalRedis.start(tmp_path / "redis") as server:
        yield server


def posed(number: int) -> tuple[Task, str, float]:
    """Task, response and the score that it deserves; every response is another one, so no cache answers."""
    right = number % 3 > 0
    if number % 4 == 0:
        task = Task(messages=(), verifier="code", ground_truth=ADDITION, data_source="add")
        return task, f"```python\n# {number}\n{ADD if right else SUBTRACT}\n```", float(right)
    if number % 4 == 1:
        task = Task(messages=(), verifier="chain", ground_truth=str(number), data_source="chain")
        return task, f"=1 #{number if right else number + 1}", float(right)
    task = Task(messages=(), verifier="math", ground_truth=f"\\frac{{{number}}}{{7}}", data_source="math")
    return task, f"\\boxed{{{number + (not right)}/7}}", float(right)


async def put_all(queue: RedisQueue, payloads: RedisPayloads, count: int) -> None:
    for number in range(count):
        task, response, _ = posed(number)
        material = payloads.put(material_owner(number), material_of(task.verification("")))
        (record,) = write_rollouts(payloads, [single_turn(number, 0, [1], [2], text=response)])
        entry = verification_task_to_proto(VerificationTask(rollout=record, material=material)).SerializeToString()
        name = record.rollout_id
        output, move = Output(stream=ROLLOUTS, key=name, payload=entry), LedgerMove(rollout_id=name, state=LIVE)
        await queue.commit(f"generate:{name}", outputs=[output], moves=[move])
    payloads.close()


def start_verifier(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "oprime_verifier", str(config)], stdout=file, stderr=file, env=dict(os.environ))


async def kill_and_replace(running: list[subprocess.Popen[bytes]], config: Path, log: Path, every_s: float, chance: random.Random) -> int:
    killed = 0
    try:
        while True:
            await asyncio.sleep(every_s)
            place = chance.randrange(len(running))
            running[place].kill()
            running[place].wait()
            killed += 1
            running[place] = start_verifier(config, log)
    except asyncio.CancelledError:
        return killed


def mentions(config: Path) -> list[psutil.Process]:
    found = [process for process in psutil.process_iter() if _names(process, str(config))]
    return [process for process in found if process.pid != os.getpid()]


def _names(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [600, pytest.param(6_000, marks=pytest.mark.slow)])
async def test_every_rollout_is_judged_once_although_verifiers_are_killed(tmp_path: Path, redis: LocalRedis, count: int) -> None:
    config, log = tmp_path / "verifier.toml", tmp_path / "verifier.log"
    settings = {
        "run": {"name": RUN, "steps": 1},
        # An entry whose holder is killed is delivered again; the limit is for entries that kill their holder.
        "queue": {"url": redis.url, "lease_s": 2.0, "max_deliveries": 50},
        "verifier": {"workers": 1, "cache_entries": 0},
    }
    config.write_text(tomli_w.dumps(settings), encoding="utf-8")
    queue = RedisQueue.connect(redis.url, run=RUN, lease_s=2.0, max_deliveries=50)
    await put_all(queue, RedisPayloads.connect(redis.url, run=RUN), count)

    running = [start_verifier(config, log) for _ in range(PROCESSES)]
    killer = asyncio.create_task(kill_and_replace(running, config, log, 3.0, random.Random(7)))
    events: dict[str, list[object]] = {}
    try:
        async with asyncio.timeout(WAIT_S if count < 1000 else 540):
            while len(events) < count or not killer_has_killed(log):
                for delivery in await queue.receive(VERDICTS, "coordinator", most=100, wait_s=0.5):
                    events.setdefault(delivery.key, []).append(event_from_proto(pb.RolloutEvent.FromString(delivery.payload)))
                    await queue.acknowledge([delivery])
        # Whoever still works on an entry that another has committed would commit it a second time now.
        await asyncio.sleep(5.0)
        for delivery in await queue.receive(VERDICTS, "coordinator", most=count, wait_s=0.5):
            events.setdefault(delivery.key, []).append(delivery.payload)
    finally:
        killer.cancel()
        killed = await killer
        for process in running:
            process.kill()
            process.wait()

    assert killed >= 1
    assert Counter(len(found) for found in events.values()) == {1: count}
    scores = {key: found[0].outcome.score for key, found in events.items() if isinstance(found[0], VerifiedRollout)}
    assert scores == {f"{number}:0": posed(number)[2] for number in range(count)}
    assert await queue.ledger_counts() == {"issued": count, LIVE: count}
    assert await queue.dead_letters() == []
    assert (await queue.depth(ROLLOUTS)).pending == 0
    await queue.close()


def killer_has_killed(log: Path) -> bool:
    """More services have begun to listen than were started at first."""
    return log.read_text(encoding="utf-8", errors="replace").count('"listening"') > PROCESSES
