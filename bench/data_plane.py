"""What travels, and what stays where it was written: python -m bench.data_plane [--rollouts 4096 --tokens 32768].

Three measurements in one run: bytes through Redis for a code task with 5 MB of tests and 16 siblings, once as whole rollouts that every
stage passes on (how it was) and once by name; the time that each stage decodes; and a batch of 4,096 rollouts of 32,768 tokens on its
way from the generator to the learner's fetch, each stage a process of its own, with its peak memory. No model runs: the engine is a
stand-in that returns zeros, so that everything else of a train step is what it is.
"""

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oprime.adapters.directory_payloads import DirectoryPayloads
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.core.token_rows import TokenRows
from oprime.core.types import (
    Batch,
    FinishReason,
    Rollout,
    ScoredBatch,
    VerificationTask,
    VerifiedGroup,
    VerifiedRollout,
    WeightVersionSpan,
    sampled,
    untrained,
)
from oprime.core.verification import VerificationRequest, scored
from oprime.lm.batches import MicroBatch
from oprime.ports import BATCHES, ROLLOUTS, SCORED, TICKETS, VERDICTS, Delivery, Output, Payloads
from oprime.runtime.rollout_payloads import (
    RewardWriter,
    material_of,
    material_owner,
    read_rewards,
    read_rollouts,
    request_of,
    write_rollouts,
)
from oprime.runtime.settings import AlgorithmSection
from oprime.wire.codec import (
    batch_from_proto,
    batch_to_proto,
    event_from_proto,
    event_to_proto,
    rollout_from_proto,
    rollout_to_proto,
    scored_batch_to_proto,
    verification_task_from_proto,
    verification_task_to_proto,
)
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_proto.v1 import common_pb2 as pb

SIBLINGS = 16
TEST_BYTES = 5_000_000
PROMPT_TOKENS = 256
RESPONSE_TOKENS = 1024
MIB = 2**20


def rollout_of(group: int, index: int, tokens: int) -> Rollout:
    """A prompt, and a response of `tokens` less the prompt's."""
    prompt, response = min(PROMPT_TOKENS, tokens // 2), tokens - min(PROMPT_TOKENS, tokens // 2)
    ids = np.random.default_rng([group, index]).integers(5, 30_000, response).astype(np.int32)
    spans = [WeightVersionSpan(start=0, end=response, version=0)]
    segments = (untrained(np.arange(1, prompt + 1)), *sampled(ids, np.full(response, -1.0, dtype=np.float32), spans))
    return Rollout(group_id=group, index=index, seed=index, segments=segments, text="word" * response, finish_reason=FinishReason.STOP)


# Bytes through Redis, and time to decode


@dataclass(frozen=True, slots=True)
class Travelled:
    received: int
    sent: int
    """Bytes that the server received and sent."""
    decoding: dict[str, float]
    """Milliseconds for one group, by stage."""


class Wire:
    """A Redis whose traffic is counted."""

    def __init__(self, redis: LocalRedis, run: str) -> None:
        self.queue = RedisQueue.connect(redis.url, run=run, password=redis.password)
        self.payloads = RedisPayloads.connect(redis.url, run=run, password=redis.password)
        self._client = self.payloads._client

    def counts(self) -> tuple[int, int]:
        stats = self._client.info("stats")
        return stats["total_net_input_bytes"], stats["total_net_output_bytes"]

    async def passed(self, stream: str, entries: Sequence[bytes], mark: str) -> list[Delivery]:
        """What one stage commits and the next receives."""
        outputs = [Output(stream=stream, key=str(place), payload=entry) for place, entry in enumerate(entries)]
        await self.queue.commit(mark, outputs=outputs)
        taken: list[Delivery] = []
        while len(taken) < len(entries):
            taken += await self.queue.receive(stream, "bench", most=len(entries), wait_s=1.0)
        await self.queue.acknowledge(taken)
        return taken


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


async def whole(redis: LocalRedis) -> Travelled:
    """As it was: the ticket carries the tests, each entry of `rollouts` the rollout and the tests, all later ones the rollout."""
    wire = Wire(redis, "whole")
    before = wire.counts()
    task = request()
    material = material_of(task)
    rollouts = [rollout_to_proto(rollout_of(0, index, PROMPT_TOKENS + RESPONSE_TOKENS)).SerializeToString() for index in range(SIBLINGS)]
    rewards = b"\0" * 4 * RESPONSE_TOKENS
    await wire.passed(TICKETS, [material], "ticket")
    await wire.passed(ROLLOUTS, [rollout + material for rollout in rollouts], "generate")
    await wire.passed(VERDICTS, rollouts, "verify")
    await wire.passed(BATCHES, [b"".join(rollouts)], "cut")
    await wire.passed(SCORED, [b"".join(rollout + rewards for rollout in rollouts)], "score")
    after = wire.counts()

    def decode() -> list[Rollout]:
        return [rollout_from_proto(pb.Rollout.FromString(rollout)) for rollout in rollouts]

    each = milliseconds(decode)
    decoding = {
        "verifier": each + SIBLINGS * milliseconds(lambda: request_of(material, name="")),
        "coordinator": each,
        # Rank 0 looked at a batch before all ranks decoded it again.
        "PRM": 2 * each,
        "learner": 2 * each,
    }
    await wire.queue.close()
    return Travelled(after[0] - before[0], after[1] - before[1], decoding)


async def by_name(redis: LocalRedis) -> Travelled:
    """As it is: what is large is written once, and read once by each stage that needs it."""
    wire = Wire(redis, "names")
    before = wire.counts()
    (material,) = wire.payloads.put_many([(material_owner(0), material_of(request()))])
    await wire.passed(TICKETS, [pb.Ticket(material=material).SerializeToString()], "ticket")
    records = write_rollouts(wire.payloads, [rollout_of(0, index, PROMPT_TOKENS + RESPONSE_TOKENS) for index in range(SIBLINGS)])
    tasks = [verification_task_to_proto(VerificationTask(rollout=record, material=material)) for record in records]
    entries = [task.SerializeToString() for task in tasks]
    await wire.passed(ROLLOUTS, entries, "generate")
    found = wire.payloads.get_many([material])[0] or b""
    wire.payloads.get_many([record.text for record in records])
    verified = [VerifiedRollout(rollout=record, outcome=scored(float(record.index % 2))) for record in records]
    events = [event_to_proto(one).SerializeToString() for one in verified]
    await wire.passed(VERDICTS, events, "verify")
    batch = Batch(step=1, groups=(VerifiedGroup(group_id=0, rollouts=tuple(verified)),))
    cut = batch_to_proto(batch).SerializeToString()
    await wire.passed(BATCHES, [cut], "cut")
    contents = partial(read_rollouts, wire.payloads)
    prm = milliseconds(lambda: contents(records))
    writer = RewardWriter(wire.payloads, 1)
    for place in range(SIBLINGS):
        writer.add(place, np.zeros(RESPONSE_TOKENS, dtype=np.float32))
    names = tuple(writer.finish())
    entry = scored_batch_to_proto(ScoredBatch(batch=batch, process_rewards=names, prm_version=1)).SerializeToString()
    await wire.passed(SCORED, [entry], "score")
    learner = milliseconds(lambda: read_rewards(wire.payloads, names, batch)) + milliseconds(lambda: contents(records))
    after = wire.counts()
    decoding = {
        "verifier": milliseconds(lambda: request_of(found, name=""))
        + milliseconds(lambda: [verification_task_from_proto(pb.VerificationTask.FromString(one)) for one in entries]),
        "coordinator": milliseconds(lambda: [event_from_proto(pb.RolloutEvent.FromString(one)) for one in events]),
        # With the way from Redis, since each rank fetches its rows itself.
        "PRM": prm + 2 * milliseconds(lambda: batch_from_proto(pb.Batch.FromString(cut))),
        "learner": learner + 2 * milliseconds(lambda: batch_from_proto(pb.Batch.FromString(cut))),
    }
    await wire.queue.close()
    wire.payloads.close()
    return Travelled(after[0] - before[0], after[1] - before[1], decoding)


@contextmanager
def local_redis() -> Iterator[LocalRedis]:
    with tempfile.TemporaryDirectory() as folder:
        server = LocalRedis.start(Path(folder))
        try:
            yield server
        finally:
            server.stop()


def request() -> VerificationRequest:
    tests = json.dumps({"inputs": ["1" * TEST_BYTES], "outputs": ["1"]})
    return VerificationRequest(kind="code", response="", golds=(tests,), group_id="0")


async def compare() -> tuple[Travelled, Travelled]:
    with local_redis() as redis:
        return await whole(redis), await by_name(redis)


# A large batch, stage by stage


class NoModel:
    """A train engine whose model costs nothing: log-probs of 0, no weights."""

    rank, world_size, shares_prompts = 0, 1, False

    def logprobs(self, rows: TokenRows) -> Tensor:
        return torch.zeros(rows.is_trained.shape)

    def train_step(
        self, micro_batches: Sequence[TokenRows], loss: Callable[..., Tensor], *, learning_rate: float, entropies: bool = False
    ) -> float:
        for index, rows in enumerate(micro_batches):
            outputs = [torch.zeros(rows.is_trained.shape, requires_grad=True) for _ in range(1 + entropies)]
            loss(index, *outputs).backward()
        return 0.0

    def all_sum(self, values: Tensor) -> Tensor:
        return values

    def gather(self, payload: bytes) -> list[bytes]:
        return [payload]


def generate(payloads: Payloads, folder: Path, rollouts: int, tokens: int) -> None:
    """Write every rollout, and what travels on."""
    groups = []
    for group in range(rollouts // SIBLINGS):
        records = write_rollouts(payloads, [rollout_of(group, index, tokens) for index in range(SIBLINGS)])
        verified = tuple(VerifiedRollout(rollout=record, outcome=scored(float(record.index % 2))) for record in records)
        groups.append(VerifiedGroup(group_id=group, rollouts=verified))
    (folder / "verdicts").write_bytes(batch_to_proto(Batch(step=1, groups=tuple(groups))).SerializeToString())


async def commit_and_cut(folder: Path) -> None:
    """What a coordinator does with the batch: each verdict is committed, received and decoded, then one entry is cut."""
    verdicts = batch_from_proto(pb.Batch.FromString((folder / "verdicts").read_bytes()))
    with local_redis() as redis:
        queue = RedisQueue.connect(redis.url, run="large", password=redis.password)
        received: list[VerifiedRollout] = []
        for group in verdicts.groups:
            outputs = [
                Output(stream=VERDICTS, key=one.rollout.rollout_id, payload=event_to_proto(one).SerializeToString())
                for one in group.rollouts
            ]
            await queue.commit(f"verify:{group.group_id}", outputs=outputs)
            for delivery in await queue.receive_held(VERDICTS, "bench", most=SIBLINGS, wait_s=1.0):
                event = event_from_proto(pb.RolloutEvent.FromString(delivery.payload))
                received += [event] if isinstance(event, VerifiedRollout) else []
        by_group: dict[int, list[VerifiedRollout]] = {}
        for one in received:
            by_group.setdefault(one.rollout.group_id, []).append(one)
        batch = Batch(step=1, groups=tuple(VerifiedGroup(group_id=name, rollouts=tuple(own)) for name, own in by_group.items()))
        (folder / "batch").write_bytes(batch_to_proto(batch).SerializeToString())
        await queue.close()


def cut(payloads: Payloads, folder: Path, rollouts: int, tokens: int) -> None:
    asyncio.run(commit_and_cut(folder))


def score(payloads: Payloads, folder: Path, rollouts: int, tokens: int) -> None:
    """The PRM's share of a train step, rewards written."""
    batch = batch_from_proto(pb.Batch.FromString((folder / "batch").read_bytes()))
    settings = PrmSection(micro_batch_rollouts=1, update="double_forward")

    def reference(micro: MicroBatch) -> Tensor:
        return torch.full(micro.rows.is_trained.shape, -0.01)

    prm = ImplicitPrm(NoModel(), partial(read_rollouts, payloads), reference, settings, pad_id=0, total_steps=1)  # pyright: ignore[reportArgumentType]
    writer = RewardWriter(payloads, 1)
    prm.process(batch, writer.add)
    (folder / "rewards").write_text(json.dumps(writer.finish()), encoding="utf-8")


def train(payloads: Payloads, folder: Path, rollouts: int, tokens: int) -> None:
    """The learner's share of a train step."""
    batch = batch_from_proto(pb.Batch.FromString((folder / "batch").read_bytes()))
    rewards = read_rewards(payloads, json.loads((folder / "rewards").read_text(encoding="utf-8")), batch)
    section = LearnerSection(micro_batch_rollouts=1)
    trainer = PolicyTrainer(NoModel(), AlgorithmSection(), section, partial(read_rollouts, payloads), pad_id=0, total_steps=1)  # pyright: ignore[reportArgumentType]
    trainer.process(batch, rewards)


STAGES = {"generate": generate, "cut": cut, "score": score, "train": train}


def large(folder: Path, rollouts: int, tokens: int) -> Iterator[tuple[str, float, float]]:
    """Name, seconds and peak MiB of each stage, which runs in a process of its own."""
    for stage in STAGES:
        began = time.perf_counter()
        command = [sys.executable, "-m", "bench.data_plane", "--stage", stage, "--folder", str(folder)]
        done = subprocess.run([*command, "--rollouts", str(rollouts), "--tokens", str(tokens)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"stage {stage} ended with code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
        yield stage, time.perf_counter() - began, float(done.stdout.strip().splitlines()[-1])


def run_stage(stage: str, folder: Path, rollouts: int, tokens: int) -> None:
    torch.set_num_threads(1)
    STAGES[stage](DirectoryPayloads(folder / "payloads"), folder, rollouts, tokens)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def report_travel() -> None:
    before, after = asyncio.run(compare())
    rollout = PROMPT_TOKENS + RESPONSE_TOKENS
    print(f"a code task with {TEST_BYTES:,} bytes of tests and {SIBLINGS} siblings of {rollout:,} tokens")
    print(f"{'':24}{'whole':>14}{'by name':>14}{'ratio':>8}")
    for what, one, other in (("received by Redis", before.received, after.received), ("sent by Redis", before.sent, after.sent)):
        print(f"{what:24}{one / 1e6:>11.1f} MB{other / 1e6:>11.1f} MB{one / other:>8.1f}")
    per_rollout = ((found.received + found.sent) / SIBLINGS for found in (before, after))
    print(f"{'both, per rollout':24}" + "".join(f"{bytes_ / 1e6:>11.2f} MB" for bytes_ in per_rollout))
    for stage, time_ms in before.decoding.items():
        print(f"{'decoding, ' + stage:24}{time_ms:>11.2f} ms{after.decoding[stage]:>11.2f} ms{time_ms / after.decoding[stage]:>8.1f}")


def report_large(rollouts: int, tokens: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="oprime-data-plane-"))
    try:
        print(f"a batch of {rollouts:,} rollouts of {tokens:,} tokens, payloads in a directory")
        print(f"{'stage':12}{'seconds':>10}{'peak memory':>16}")
        for stage, seconds, peak in large(folder, rollouts, tokens):
            print(f"{stage:12}{seconds:>10.1f}{peak:>12.0f} MiB", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.folder, arguments.rollouts, arguments.tokens)
        return
    report_travel()
    report_large(arguments.rollouts, arguments.tokens)


if __name__ == "__main__":
    main()
