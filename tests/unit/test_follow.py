"""The weight follower with a real store, a manual clock and a sampler that loads at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
import torch

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.store_weights import StoreWeights
from oprime.ports import WeightVersion
from oprime.runtime.errors import OprimeError, UnusableInputError, WeightsRefusedError
from oprime.runtime.weight_transfer import Transfer, offer
from oprime_generator.follow import AWAIT_OFFER_S, TURN, Receiver, WeightFollower
from oprime_generator.sampler import SampledResponse, SampleRequest, TokenDelta, completed

POLL_S = 0.05
TURN_S = 30.0
FIRST_TURN = TURN.format(0)


class PreciseSampler:
    """A Sampler that loads weights at once unless it is held up, and only if they have the tensor it knows."""

    backend = "precise"
    max_model_tokens = 10

    def __init__(self) -> None:
        self.weight_version = 0
        self.loaded: list[int] = []
        self.loading = asyncio.Event()
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def load(self, directory: Path, version: int) -> None:
        if not (directory / "model.safetensors").exists():
            raise WeightsRefusedError(f"{directory} holds no model.safetensors")
        await completed(self._switch(version))

    async def _switch(self, version: int) -> None:
        self.loading.set()
        await self.may_load.wait()
        self.loaded.append(version)
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


class World:
    def __init__(self, folder: Path) -> None:
        template = folder / "template"
        template.mkdir()
        (template / "config.json").write_text("{}")
        self.store = StoreWeights(str(folder / "store"), template=template)
        self.root = folder / "store"
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock)
        self.metrics = PrometheusMetrics()
        self.sampler = PreciseSampler()
        self.activated: list[int] = []
        self.is_sampling = True
        self.follower = self.new_follower("one")

    def new_follower(self, name: str, store: StoreWeights | None = None, receiver: Receiver | None = None) -> WeightFollower:
        return WeightFollower(
            store or self.store,
            self.sampler,
            self.queue,
            self.clock,
            self.metrics,
            generator_id=name,
            poll_s=POLL_S,
            turn_s=TURN_S,
            at_once=1,
            is_sampling=lambda: self.is_sampling,
            activated=self.activated.append,
            receiver=receiver,
        )

    def publish(self, *versions: int) -> None:
        for version in versions:
            self.store.publish(version, iter([("one", torch.full((4,), float(version)))]), parent=None)

    def damage(self, version: int) -> bytes:
        """Flip a bit of a version; returns the undamaged bytes."""
        file = self.root / f"v{version:08d}" / "model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        return whole

    def repair(self, version: int, whole: bytes) -> None:
        (self.root / f"v{version:08d}" / "model.safetensors").write_bytes(whole)

    def refused(self) -> float | None:
        return self.metrics.registry.get_sample_value("oprime_weights_refused_total")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_it_goes_straight_to_the_newest_version(world: World) -> None:
    world.publish(1, 2, 3)
    assert await world.follower.follow()
    assert world.sampler.loaded == world.activated == [3]
    assert world.follower.error == ""
    assert world.metrics.registry.get_sample_value("oprime_policy_version") == 3
    assert not await world.follower.follow()


async def test_a_damaged_version_is_reported_and_the_newest_sound_one_serves(world: World) -> None:
    world.publish(1, 2, 3)
    world.damage(3)
    assert await world.follower.follow()
    assert world.sampler.loaded == [2]
    assert "weight version 3" in world.follower.error
    assert "tensor one in model.safetensors has checksum" in world.follower.error


async def test_a_damaged_version_is_counted_once_and_looked_at_again_at_longer_and_longer_intervals(world: World) -> None:
    world.publish(1)
    whole = world.damage(1)
    assert not await world.follower.follow()
    world.clock.advance(1.5)
    assert not await world.follower.follow()
    assert world.refused() == 1
    world.repair(1, whole)
    world.clock.advance(1.5)
    assert not await world.follower.follow()
    world.clock.advance(0.5)
    assert await world.follower.follow()
    assert world.follower.error == ""
    assert world.sampler.loaded == [1]


async def test_a_missing_shard_is_named(world: World) -> None:
    world.publish(1)
    (world.root / "v00000001" / "model.safetensors").unlink()
    assert not await world.follower.follow()
    assert "file model.safetensors is missing" in world.follower.error
    assert world.sampler.weight_version == 0


async def test_weights_that_the_sampler_refuses_leave_the_old_ones_serving(world: World) -> None:
    world.publish(1)
    world.store.publish(2, iter([("one", torch.zeros(4)), ("two", torch.zeros(4))]), parent=1)
    split = StoreWeights(str(world.root), template=world.root.parent / "template", shard_bytes=1)
    split.publish(3, iter([("one", torch.zeros(4)), ("two", torch.zeros(4))]), parent=2)
    assert await world.follower.follow()
    assert world.sampler.loaded == [2]
    assert "v00000003 holds no model.safetensors" in world.follower.error


async def test_a_newer_version_clears_the_error_of_an_older_one(world: World) -> None:
    world.publish(1)
    world.damage(1)
    await world.follower.follow()
    world.publish(2)
    assert await world.follower.follow()
    assert world.follower.error == ""


async def test_replicas_move_one_after_another(world: World) -> None:
    world.publish(1)
    assert await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)
    following = asyncio.create_task(world.follower.follow())
    await asyncio.to_thread(lambda: None)
    for _ in range(20):
        await world.clock.run_for(POLL_S)
        await asyncio.sleep(0.01)
    assert world.sampler.loaded == []
    await world.queue.end_turn(FIRST_TURN, "another")
    while not following.done():
        await world.clock.run_for(POLL_S)
        await asyncio.sleep(0.01)
    assert world.sampler.loaded == [1]
    assert await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)


async def test_a_replica_that_samples_nothing_waits_for_no_turn(world: World) -> None:
    world.publish(1)
    world.is_sampling = False
    assert await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)
    assert await world.follower.follow()
    assert world.sampler.loaded == [1]


async def test_a_newer_version_that_comes_while_a_replica_waits_for_its_turn_is_loaded_instead(world: World) -> None:
    world.publish(1)
    assert await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)
    following = asyncio.create_task(world.follower.follow())
    await asyncio.sleep(0.1)
    world.publish(2)
    while not following.done():
        await world.clock.run_for(POLL_S)
        await asyncio.sleep(0.01)
    assert not following.result()
    await world.queue.end_turn(FIRST_TURN, "another")
    assert await world.follower.follow()
    assert world.sampler.loaded == [2]


async def test_a_turn_lasts_until_its_replica_has_loaded(world: World) -> None:
    world.publish(1)
    world.sampler.may_load.clear()
    following = asyncio.create_task(world.follower.follow())
    await world.sampler.loading.wait()
    for _ in range(9):
        await world.clock.run_for(TURN_S / 3)
        assert not await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)
    world.sampler.may_load.set()
    assert await following
    assert await world.queue.take_turn(FIRST_TURN, "another", seconds=TURN_S)


async def test_a_replica_that_died_in_its_turn_holds_the_others_up_only_for_so_long(world: World) -> None:
    world.publish(1)
    assert await world.queue.take_turn(FIRST_TURN, "dead", seconds=TURN_S)
    world.clock.advance(TURN_S + 1)
    assert await world.follower.follow()
    assert world.sampler.loaded == [1]


async def test_whoever_waits_for_a_version_goes_on_once_it_or_a_newer_one_serves(world: World) -> None:
    await world.follower.wait_for(0)
    waiting = asyncio.create_task(world.follower.wait_for(2))
    world.publish(1)
    await world.follower.follow()
    await asyncio.sleep(0)
    assert not waiting.done()
    world.publish(3)
    await world.follower.follow()
    await asyncio.wait_for(waiting, 5)


async def test_sampling_goes_on_while_a_version_is_fetched(world: World) -> None:
    fetching, go_on = threading.Event(), threading.Event()

    class SlowStore(StoreWeights):
        def fetch(self, version: int) -> WeightVersion:
            fetching.set()
            assert go_on.wait(10)
            return super().fetch(version)

    world.publish(1)
    slow = SlowStore(str(world.root), template=world.root.parent / "template")
    following = asyncio.create_task(world.new_follower("slow", slow).follow())
    assert await asyncio.to_thread(fetching.wait, 10)
    assert world.sampler.weight_version == 0
    assert not following.done()
    go_on.set()
    assert await following
    assert world.sampler.weight_version == 1


async def test_an_older_version_is_refused_and_the_same_one_changes_nothing(world: World) -> None:
    world.publish(1, 2)
    await world.follower.follow()
    await world.follower.activate(await world.follower.prepare(2))
    assert world.sampler.loaded == [2]
    with pytest.raises(UnusableInputError, match="weight version 1 is older than 2"):
        await world.follower.activate(await world.follower.prepare(1))


async def test_a_switch_whose_caller_gives_up_is_heard_of_and_keeps_the_next_one_waiting(world: World) -> None:
    world.publish(1, 2)
    first, second = await world.follower.prepare(1), await world.follower.prepare(2)
    waiting = asyncio.create_task(world.follower.wait_for(1))
    world.sampler.may_load.clear()
    given_up = asyncio.create_task(world.follower.activate(second))
    await world.sampler.loading.wait()
    given_up.cancel()
    late = asyncio.create_task(world.follower.activate(first))
    await asyncio.sleep(0)
    world.sampler.may_load.set()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    with pytest.raises(UnusableInputError, match="weight version 1 is older than 2"):
        await late
    await asyncio.wait_for(waiting, 5)
    assert world.sampler.loaded == world.activated == [2]
    assert world.metrics.registry.get_sample_value("oprime_policy_version") == 2


async def test_a_store_that_cannot_be_listed_is_reported_until_it_can(world: World) -> None:
    class AwayStore(StoreWeights):
        is_away = True

        def versions(self) -> list[int]:
            if self.is_away:
                raise OprimeError("the weight store is away")
            return super().versions()

    world.publish(1)
    store = AwayStore(str(world.root), template=world.root.parent / "template")
    follower = world.new_follower("one", store)
    assert not await follower.follow()
    assert follower.error == "the weight store is away"
    store.is_away = False
    assert await follower.follow()
    assert follower.error == ""


# --- versions that come straight from the learner ---


class PreciseReceiver:
    """Takes every transfer that it is named in."""

    def __init__(self, sampler: PreciseSampler) -> None:
        self._sampler = sampler
        self.received: list[tuple[int, int]] = []

    async def receive(self, transfer: Transfer, generator_id: str) -> None:
        self.received.append((transfer.version, transfer.first_ranks[generator_id]))
        self._sampler.weight_version = transfer.version


async def test_a_version_that_is_offered_is_taken_from_the_learner(world: World) -> None:
    receiver = PreciseReceiver(world.sampler)
    follower = world.new_follower("one", receiver=receiver)
    assert not await follower.follow()
    world.publish(1)
    # The store has it, and the learner is about to offer it.
    assert not await follower.follow()
    assert await offer(world.queue, version=1, host="learner", port=1, tensors={"one": ("float32", (4,))})
    assert await follower.follow()
    assert (receiver.received, world.sampler.loaded, world.activated) == ([(1, 1)], [], [1])
    assert not await follower.follow()


async def test_a_version_that_is_not_offered_comes_from_the_store_after_a_moment(world: World) -> None:
    follower = world.new_follower("one", receiver=PreciseReceiver(world.sampler))
    world.publish(1)
    assert not await follower.follow()
    world.clock.advance(AWAIT_OFFER_S)
    assert await follower.follow()
    assert world.sampler.loaded == [1]
