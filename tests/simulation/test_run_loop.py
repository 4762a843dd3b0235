"""The run loop under seeded faults. A failure prints its seed in the test's name."""

import json
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from oprime.core.types import Ticket
from oprime.ports import BATCHES, LIVE
from oprime.runtime.errors import OprimeError
from oprime.wire.codec import batch_from_proto
from oprime_coordinator.restore import restore_from_checkpoint, restore_from_queue
from oprime_proto.v1 import common_pb2 as pb
from simulation.world import GROUP_SIZE, World


async def finished(world: World) -> World:
    await world.begin()
    await world.run()
    await check_that_the_ledger_knows_what_was_trained(world)
    return world


async def check_that_the_ledger_knows_what_was_trained(world: World) -> None:
    states = {rollout_id: state async for rollout_id, state in world.queue.ledger_entries()}
    trained = {rollout_id for rollout_id, state in states.items() if state.startswith("trained:")}
    assert trained == set(world.trained)
    assert {rollout_id for rollout_id, state in states.items() if state.startswith("baseline:")} == set(world.compared_with)


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
async def test_every_step_gets_a_full_batch_and_no_rollout_is_trained_twice(max_staleness: int) -> None:
    world = await finished(World(seed=1, max_staleness=max_staleness, steps=12))
    assert [len(world.groups_by_step[step]) for step in range(1, 13)] == [4] * 12
    assert set(world.trained.values()) == {1}
    assert sum(world.trained.values()) == 12 * 4 * GROUP_SIZE


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
async def test_staleness_never_exceeds_its_bound(seed: int, max_staleness: int) -> None:
    world = await finished(World(seed=seed, max_staleness=max_staleness, steps=10))
    assert max(world.staleness) <= max_staleness


async def test_the_bound_is_used_when_it_allows_old_rollouts() -> None:
    world = await finished(World(seed=3, max_staleness=2, steps=20))
    assert max(world.staleness) > 0


@pytest.mark.parametrize("max_staleness", [0, 1, 4])
@pytest.mark.parametrize("seed", range(5))
async def test_crashes_repeat_work_but_nothing_counts_twice(seed: int, max_staleness: int) -> None:
    world = await finished(World(seed=seed, max_staleness=max_staleness, steps=10, crash_share=0.1))
    assert [len(groups) for groups in world.groups_by_step.values()] == [4] * 10
    assert set(world.trained.values()) == {1}
    assert max(world.staleness) <= max_staleness


async def test_a_restarted_coordinator_leaves_the_groups_of_a_cut_batch_alone() -> None:
    world = World(seed=1, max_staleness=1, steps=3)
    await world.begin()
    while world.loop.state.next_step == 1:
        await world.coordinator_turn()
        await world.generator_turn()
        await world.verifier_turn()
    (delivery,) = await world.queue.receive_held(BATCHES, "prm", most=1, wait_s=0)
    in_batch = {group.group_id for group in batch_from_proto(pb.Batch.FromString(delivery.payload)).groups}
    restored = await restore_from_queue(world.queue)
    assert restored is not None
    assert in_batch
    assert not in_batch & set(restored.open_groups)


async def test_crashes_do_not_change_what_the_synchronous_algorithm_trains_on() -> None:
    calm = await finished(World(seed=5, max_staleness=0, steps=8))
    stormy = World(seed=5, max_staleness=0, steps=8, crash_share=0.08)
    await stormy.begin()
    stormy.dice.seed(99)
    await stormy.run()
    await check_that_the_ledger_knows_what_was_trained(stormy)
    assert stormy.groups_by_step == calm.groups_by_step


@pytest.mark.parametrize("seed", range(3))
async def test_rollouts_that_cannot_be_verified_shrink_their_group_and_are_dead_in_the_ledger(seed: int) -> None:
    world = await finished(World(seed=seed, max_staleness=1, steps=6, error_share=0.2))
    assert (await world.states())["dead"] > 0
    assert set(world.trained.values()) == {1}


@pytest.mark.parametrize("max_staleness", [0, 1, 4])
@pytest.mark.parametrize("seed", range(4))
async def test_with_remax_every_trained_group_has_its_greedy_baseline_and_the_ledger_closes(seed: int, max_staleness: int) -> None:
    world = World(
        seed=seed, max_staleness=max_staleness, steps=10, estimator="remax", crash_share=0.08, error_share=0.05, unscored_share=0.05
    )
    await finished(world)
    groups = {group for members in world.groups_by_step.values() for group in members}
    assert len(groups) == 10 * 4
    assert world.compared_with == Counter(f"{group}:{GROUP_SIZE}" for group in groups)
    assert set(world.trained.values()) == {1}
    assert not any(rollout_id.endswith(f":{GROUP_SIZE}") for rollout_id in world.trained)
    assert max(world.staleness) <= max_staleness
    lost = {state async for _, state in world.queue.ledger_entries()}
    assert {"dropped:baseline_lost", "dropped:undecided", "dead:rollouts"} <= lost
    await world.loop.close_ledger()
    counts = await world.queue.ledger_counts()
    assert counts.get(LIVE, 0) == 0
    assert counts["baseline"] == 10 * 4
    await world.check_ledger()


async def test_remax_trains_on_the_groups_that_its_filter_would_keep_without_baselines() -> None:
    # Baselines are wrong or right by dice of their own: whether a group passes does not depend on them.
    with_baselines = await finished(World(seed=6, max_staleness=0, steps=6, estimator="remax"))
    without = await finished(World(seed=6, max_staleness=0, steps=6))
    assert with_baselines.groups_by_step == without.groups_by_step


async def test_a_run_whose_groups_are_all_refused_stops_and_says_why() -> None:
    with pytest.raises(OprimeError, match="200 groups in turn were refused \\(200 filtered:accuracy_low\\)"):
        await finished(World(seed=1, max_staleness=1, steps=2, right_share=0.0))


async def test_the_ledger_closes_when_the_run_ends() -> None:
    world = await finished(World(seed=2, max_staleness=2, steps=6))
    await world.loop.close_ledger()
    counts = await world.queue.ledger_counts()
    assert counts.get(LIVE, 0) == 0
    assert counts["trained"] == 6 * 4 * GROUP_SIZE


async def test_step_rows_are_written_once_per_step_without_crashes() -> None:
    world = await finished(World(seed=2, max_staleness=1, steps=6))
    assert world.step_rows == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("estimator", ["rloo", "remax"])
async def test_a_run_that_lost_its_queue_goes_on_from_a_checkpoint(tmp_path: Path, estimator: Literal["rloo", "remax"]) -> None:
    world = World(seed=4, max_staleness=1, steps=8, estimator=estimator)
    await world.begin()
    while world.loop.state.committed_step < 4:
        await world.turn()
    ledger = {rollout_id: state async for rollout_id, state in world.queue.ledger_entries()}
    (tmp_path / "state.json").write_bytes(world.loop.state.to_bytes())
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    trained_before = dict(world.groups_by_step)

    again = World(seed=4, max_staleness=1, steps=8, estimator=estimator)
    again.version = 4

    def ticket_again(group_id: int) -> Ticket:
        ticket = again.loop.ticket(group_id)
        assert ticket is not None
        return ticket

    restored = await restore_from_checkpoint(again.queue, tmp_path, 4, ticket_again)
    await again.loop.begin(restored)
    await again.run()

    assert sorted(again.groups_by_step) == [5, 6, 7, 8]
    earlier = {group for groups in trained_before.values() for group in groups}
    later = [group for groups in again.groups_by_step.values() for group in groups]
    assert not earlier & set(later)
    assert len(later) == len(set(later))
    assert set(again.compared_with) == ({f"{group}:{GROUP_SIZE}" for group in later} if estimator == "remax" else set())
