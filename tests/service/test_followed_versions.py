"""A replica that only scores: it follows the PRM's versions on disk, and answers with each that is named."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fakes import ManualClock
from oprime.adapters.store_weights import StoreWeights
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm
from oprime.runtime.errors import WeightVersionMissingError
from oprime_prm.scoring.versions import FollowedVersions
from tiny_policies import write_policy


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("start")
    write_policy(directory)
    return directory


def weights(start: Path, amount: float) -> Iterator[tuple[str, torch.Tensor]]:
    own = dict(load_causal_lm(start).named_parameters())
    with torch.no_grad():
        own["lm_head.weight"][6] += amount
    return iter(own.items())


class World:
    def __init__(self, start: Path, folder: Path, *, most: int = 2, fixed: int | None = None) -> None:
        self.start = start
        self.store = StoreWeights(str(folder), template=start)
        self.clock = ManualClock()
        self.loads: list[str] = []
        frozen = FrozenModel(load_causal_lm(start), chunk_tokens=8)

        def load(directory: Path | None) -> FrozenModel:
            self.loads.append("start" if directory is None else directory.name)
            return frozen if directory is None else FrozenModel(load_causal_lm(directory), chunk_tokens=8)

        self.versions = FollowedVersions(self.store, load, frozen, beta=0.5, pad_id=0, most=most, fixed=fixed, clock=self.clock, poll_s=1.0)

    def publish(self, *versions: int) -> None:
        for version in versions:
            self.store.publish(version, weights(self.start, 0.1 * version), parent=None)

    async def follow_until(self, version: int) -> None:
        following = asyncio.create_task(self.versions.follow())
        for _ in range(500):
            self.clock.advance(1.0)
            await asyncio.sleep(0.01)
            if self.versions.newest == version:
                break
        following.cancel()
        assert self.versions.newest == version

    async def used(self, version: int | None) -> int:
        async with self.versions.using(version) as pair:
            return pair.version


async def test_it_answers_with_the_newest_and_follows_it(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path)
    await world.versions.start()
    assert (await world.used(None), world.versions.versions()) == (0, [0])
    world.publish(1, 2)
    await world.follow_until(2)
    assert (await world.used(None), await world.used(0), world.versions.versions()) == (2, 0, [0, 1, 2])
    assert world.loads == ["start", "v00000002"]


async def test_a_version_that_is_named_is_loaded_once_and_let_go_for_another(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path)
    world.publish(1, 2, 3)
    await world.versions.start()
    assert [await world.used(version) for version in (1, 1, 2, None, 1)] == [1, 1, 2, 3, 1]
    assert world.loads == ["v00000003", "v00000001", "v00000002", "v00000001"]
    with pytest.raises(WeightVersionMissingError, match=r"prm@9 is not on disk: there are prm@0, prm@1, prm@2, prm@3"):
        await world.used(9)


async def test_a_version_waits_for_room_until_another_is_no_longer_used(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path)
    world.publish(1, 2, 3)
    await world.versions.start()
    async with world.versions.using(1):
        waiting = asyncio.create_task(world.used(2))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert await world.used(None) == 3
    assert await asyncio.wait_for(waiting, 10) == 2


async def test_a_fixed_version_stays(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path, fixed=1)
    world.publish(1, 2)
    await world.versions.start()
    assert (await world.used(None), await world.used(2)) == (1, 2)


async def test_a_fixed_version_that_is_missing_is_named(start: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightVersionMissingError, match="7"):
        await World(start, tmp_path, fixed=7).versions.start()


async def test_after_a_run_has_gone_back_its_repeated_steps_count(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path)
    world.publish(1, 2)
    await world.versions.start()
    world.store.prune(keep={1}, newest=0)
    await world.follow_until(1)
    world.store.publish(2, weights(start, 5.0), parent=None)
    await world.follow_until(2)
    assert world.loads == ["v00000002", "v00000001", "v00000002"]


async def test_a_damaged_version_is_left_out_and_the_one_before_answers_on(start: Path, tmp_path: Path) -> None:
    world = World(start, tmp_path)
    world.publish(1)
    await world.versions.start()
    world.publish(2)
    shard = next((tmp_path / "v00000002").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    following = asyncio.create_task(world.versions.follow())
    for _ in range(20):
        world.clock.advance(1.0)
        await asyncio.sleep(0.01)
    assert await world.used(None) == 1
    following.cancel()
    world.publish(3)
    await world.follow_until(3)
