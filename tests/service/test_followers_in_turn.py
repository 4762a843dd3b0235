"""Several generators that follow at the same time, with their turns in a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest
import torch

from oprime.adapters.local_redis import LocalRedis, find_server
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights
from oprime.adapters.system_clock import SystemClock
from oprime.runtime.errors import QueueUnavailableError
from oprime_generator.follow import WeightFollower
from oprime_generator.sampler import SampledResponse, SampleRequest, TokenDelta

pytestmark = pytest.mark.redis

REPLICAS = 5
LOAD_S = 0.2


class Pauses:
    """How many replicas are paused, and how many were at most."""

    now = 0
    most = 0


class SlowSampler:
    """A Sampler whose switch takes a while."""

    backend = "slow"
    max_model_tokens = 10
    weight_version = 0

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses

    async def load(self, directory: Path, version: int) -> None:
        self._pauses.now += 1
        self._pauses.most = max(self._pauses.most, self._pauses.now)
        await asyncio.sleep(LOAD_S)
        self._pauses.now -= 1
        self.weight_version = version

    async def start(self) -> None: ...

    async def sample(self, request: SampleRequest) -> SampledResponse:
        raise NotImplementedError

    def stream(self, request: SampleRequest) -> AsyncIterator[TokenDelta | SampledResponse]:
        raise NotImplementedError

    def oldest_version(self, request_id: str) -> int | None:
        return None

    async def abort(self, request_ids: Collection[str]) -> None: ...

    async def watch(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    try:
        find_server()
    except QueueUnavailableError as error:
        pytest.skip(str(error))
    with LocalRedis.start(tmp_path / "redis") as server:
        yield server.url


async def follow_all(redis_url: str, folder: Path, *, at_once: int, is_sampling: bool) -> tuple[list[int], int]:
    """What every replica samples with in the end, and how many were paused at the same time at most."""
    template = folder / "template"
    template.mkdir()
    (template / "config.json").write_text("{}")
    store, pauses = StoreWeights(str(folder / "store"), template=template), Pauses()
    samplers = [SlowSampler(pauses) for _ in range(REPLICAS)]
    queues = [RedisQueue.connect(redis_url, run="run") for _ in range(REPLICAS)]
    followers = [
        WeightFollower(
            store,
            sampler,
            queue,
            SystemClock(),
            PrometheusMetrics(),
            generator_id=f"replica-{number}",
            poll_s=0.02,
            turn_s=0.15,
            at_once=at_once,
            is_sampling=lambda: is_sampling,
            activated=lambda _: None,
        )
        for number, (sampler, queue) in enumerate(zip(samplers, queues, strict=True))
    ]
    running = [asyncio.create_task(follower.run()) for follower in followers]
    try:
        for version in (1, 2):
            store.publish(version, iter([("one", torch.full((4,), float(version)))]), parent=None)
            async with asyncio.timeout(60):
                while any(sampler.weight_version < version for sampler in samplers):  # noqa: ASYNC110 - samplers announce nothing
                    await asyncio.sleep(0.05)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for queue in queues:
            await queue.close()
    return [sampler.weight_version for sampler in samplers], pauses.most


@pytest.mark.parametrize("at_once", [1, 2])
async def test_no_more_replicas_pause_at_once_than_may_though_a_switch_outlasts_a_turn(
    redis_url: str, tmp_path: Path, at_once: int
) -> None:
    assert LOAD_S > 0.15
    assert await follow_all(redis_url, tmp_path, at_once=at_once, is_sampling=True) == ([2] * REPLICAS, at_once)


async def test_replicas_that_sample_nothing_follow_together(redis_url: str, tmp_path: Path) -> None:
    versions, most = await follow_all(redis_url, tmp_path, at_once=1, is_sampling=False)
    assert versions == [2] * REPLICAS
    assert most > 1
