"""A generator whose model is spread over two machines samples what one process samples, also after new weights, and ends as a whole.

The machines share a network and the files of this one; each keeps versions in a cache of its own, as machines with disks of their own do.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from living_processes import lives
from network_namespaces import Host, hosts, needs_hosts
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights
from oprime.runtime.in_order import START_FROM
from oprime.runtime.settings import QueueSection
from oprime_cli.files import write_toml
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampledResponse, SampleRequest
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import with_other_head, write_policy

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # vLLM's own modules warn on import.
    pytest.mark.filterwarnings("ignore"),
    needs_hosts(),
]

MACHINES = ("machine-0", "machine-1")
PORT, GRPC_PORT = 29500, 50052
SEEDS = range(4)
TOKENS = 12
TOLERANCE = 1e-4
"""Of log-probs: two workers add up in another order."""
RUN = "hosts"

ASK = """
import json, sys
import grpc
from oprime.wire.codec import rollout_from_proto
from oprime_proto.v1 import common_pb2, generator_pb2
from oprime_proto.v1.generator_pb2_grpc import GeneratorServiceStub

address, version, tokens, *seeds = sys.argv[1:]
request = generator_pb2.GenerateRequest(
    messages=[common_pb2.ChatMessage(role="user", content="w5 w6 w7")],
    sampling=common_pb2.SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=int(tokens)),
    seeds=map(int, seeds),
    min_weight_version=int(version),
)
with grpc.insecure_channel(address) as channel:
    answer = GeneratorServiceStub(channel).Generate(request, timeout=200, wait_for_ready=True)
rollouts = [rollout_from_proto(rollout) for rollout in answer.rollouts]
print(json.dumps([[list(map(int, rollout.trained_ids)), [float(value) for value in rollout.behaviour_logprobs]] for rollout in rollouts]))
"""
"""Runs on host 0: its address is on that machine's loopback."""


class Generator:
    """One generator's processes, one on each machine."""

    def __init__(self, folder: Path, machines: Mapping[str, Host], redis_url: str) -> None:
        self._folder = folder
        self._machines = machines
        document = {
            "run": {"name": RUN, "directory": str(folder / "runs"), "steps": 9},
            "model": {"path": str(folder / "model")},
            "queue": {"url": redis_url},
            "endpoints": {"generator": f"127.0.0.1:{GRPC_PORT}"},
            "sampling": {"max_prompt_tokens": 8, "max_response_tokens": TOKENS},
            "generator": {"tensor_parallel": 2, "cpu_cache_gib": 0.125, "max_running_rollouts": 4, "threads": 1},
        }
        write_toml(folder / "run.toml", document)
        self.processes = [self._start(index) for index in range(len(MACHINES))]

    def _start(self, index: int) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "OPRIME_HOSTS": str(len(MACHINES)),
            "OPRIME_HOST_INDEX": str(index),
            "OPRIME_HOST_ADDRESS": f"{MACHINES[0]}:{PORT}",
            "XDG_CACHE_HOME": str(self._folder / f"cache-{index}"),
        }
        command = self._machines[MACHINES[index]].command(sys.executable, "-m", "oprime_generator", self._folder / "run.toml")
        with self._log(index).open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def ask(self, version: int) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probs of a response for each seed, sampled by weights that are at least so new."""
        words = [ASK, f"127.0.0.1:{GRPC_PORT}", str(version), str(TOKENS), *map(str, SEEDS)]
        command = self._machines[MACHINES[0]].command(sys.executable, "-c", *words)
        self._wait(lambda: '"sampler_ready"' in self.log(0))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
            try:
                self._wait(lambda: asking.poll() is not None)
            finally:
                asking.kill()
            answer, errors = asking.communicate()
        assert asking.returncode == 0, errors[-2000:] + self.log(0) + self.log(1)
        return [(ids, logprobs) for ids, logprobs in json.loads(answer)]

    def _wait(self, true: Callable[[], bool]) -> None:
        """Until it is true, while all hosts are there."""
        while not true():
            ended = [index for index, process in enumerate(self.processes) if process.poll() is not None]
            assert not ended, f"host {ended[0]} has ended: {self.log(0)}{self.log(1)}"
            time.sleep(0.1)

    def _log(self, index: int) -> Path:
        return self._folder / f"host-{index}.log"

    def log(self, index: int) -> str:
        return self._log(index).read_text(encoding="utf-8")

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def generator(folder: Path) -> Iterator[Generator]:
    """One with weight version 0 in its store."""
    model = folder / "model"
    model.mkdir()
    write_policy(model)
    store_of(folder).publish_directory(0, model)
    with hosts(MACHINES) as machines, LocalRedis.start(folder / "redis") as redis:
        asyncio.run(settle(redis.url))
        made = Generator(folder, machines, redis.url)
        try:
            yield made
        finally:
            made.kill()


def store_of(folder: Path) -> StoreWeights:
    """The learner's: versions between the whole ones are stored as what changed."""
    return StoreWeights(str(folder / "runs" / RUN / "weights"), template=folder / "model", full_every=4, cache=folder / "learner")


async def settle(url: str) -> None:
    """What the coordinator does when a run begins."""
    queue = RedisQueue.of_run(QueueSection(url=url), RUN)
    await queue.set_value(START_FROM, b"0")
    await queue.close()


async def one_process(model: Path, other: Path) -> list[list[SampledResponse]]:
    """The responses of both versions from one process."""
    settings = GeneratorSection(cpu_cache_gib=0.125, max_running_rollouts=4, threads=1)
    sampler = VllmSampler(model, version=0, settings=settings, max_prompt_tokens=8, max_response_tokens=TOKENS)
    await sampler.start()
    try:
        before = await sample(sampler)
        await sampler.load(other, 1)
        return [before, await sample(sampler)]
    finally:
        await sampler.close()


async def sample(sampler: VllmSampler) -> list[SampledResponse]:
    requests = [
        SampleRequest(request_id=f"seed-{seed}", prompt_ids=(5, 6, 7), temperature=1.0, max_tokens=TOKENS, seed=seed) for seed in SEEDS
    ]
    return await asyncio.gather(*[sampler.sample(request) for request in requests])


def test_two_machines_sample_what_one_process_samples_also_after_new_weights(tmp_path: Path) -> None:
    with generator(tmp_path) as made:
        before = made.ask(0)
        other = tmp_path / "other"
        with_other_head(write_policy(other), seed=1).save_pretrained(other)
        store_of(tmp_path).publish(1, iter(load_file(other / "model.safetensors").items()), parent=0)
        after = made.ask(1)
        made.processes[0].terminate()
        assert [process.wait(60) for process in made.processes] == [0, 0], made.log(0) + made.log(1)
    for index in range(2):
        # Version 1 is no directory of the store: each machine has put it together for itself.
        assert list((tmp_path / f"cache-{index}").glob("oprime/weights/*/v00000001/model.safetensors"))
    alone = asyncio.run(one_process(tmp_path / "model", other))
    for spread, single in zip((before, after), alone, strict=True):
        assert [tuple(ids) for ids, _ in spread] == [response.response_ids for response in single]
        for (_, logprobs), response in zip(spread, single, strict=True):
            assert logprobs == pytest.approx(response.behaviour_logprobs, abs=TOLERANCE)
    assert before != after


@pytest.mark.parametrize(
    ("killed", "left", "reason"),
    [
        (0, 1, "host 0 of this generator is gone: its process has ended"),
        (1, 0, "host 1 of this generator is gone: its process has ended"),
    ],
)
def test_when_one_host_is_killed_the_other_ends_and_says_why(tmp_path: Path, killed: int, left: int, reason: str) -> None:
    with generator(tmp_path) as made:
        made.ask(0)
        children = [child for process in made.processes for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(children) >= 3
        made.processes[killed].kill()
        assert made.processes[left].wait(60) == 1
        assert reason in made.log(left)
        assert "start all of its hosts again" in made.log(left)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert [child for child in alive if lives(child)] == []
