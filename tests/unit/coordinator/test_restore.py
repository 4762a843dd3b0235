"""What a coordinator finds when it starts."""

import json
from pathlib import Path

import pytest

from oprime.core.types import Ticket
from oprime.ports import LIVE, TICKETS, LedgerMove
from oprime.runtime.errors import CheckpointError, OprimeError
from oprime_coordinator.restore import Restore
from oprime_coordinator.state import STATE, CoordinatorState, batch_value
from simulation.world import GROUP_SIZE, World


def names(*group_ids: int) -> list[str]:
    return [f"{group_id}:{index}" for group_id in group_ids for index in range(GROUP_SIZE)]


async def world_with(ledger: dict[str, str], state: CoordinatorState, **values: bytes) -> World:
    world = World(seed=1, max_staleness=1, steps=6)
    await world.queue.restore_ledger(ledger)
    await world.queue.commit("state", values={STATE: state.to_bytes(), **values})
    return world


def checkpoint(folder: Path, ledger: dict[str, str], state: CoordinatorState) -> Path:
    (folder / "state.json").write_bytes(state.to_bytes())
    (folder / "ledger.json").write_text(json.dumps(ledger))
    return folder


def ticket_of(world: World):
    async def ticket(group_id: int) -> Ticket:
        found = await world.new_loop().ticket(group_id)
        assert found is not None
        return found

    return ticket


async def test_groups_of_a_cut_batch_are_not_open_and_what_ended_is_lost() -> None:
    ledger = dict.fromkeys(names(0, 1, 2), LIVE) | {"0:1": "dropped:verifier_error"} | dict.fromkeys(names(3), "trained:1")
    state = CoordinatorState(next_group_id=4, next_step=3, committed_step=1)
    world = await world_with(ledger, state, **{batch_value(2): b"[2]"})
    restored = await Restore(world.settings, world.queue, world.clock).from_queue()
    assert restored is not None
    assert sorted(restored.open_groups) == [0, 1]
    assert (restored.open_groups[0].size, restored.open_groups[0].lost) == (GROUP_SIZE, {1})
    assert restored.batches == {2: (2,)}


async def test_a_queue_without_the_run_has_nothing_to_restore() -> None:
    world = World(seed=1, max_staleness=1, steps=6)
    assert await Restore(world.settings, world.queue, world.clock).from_queue() is None


async def test_a_damaged_ledger_is_refused_with_what_is_missing() -> None:
    ledger = dict.fromkeys(names(0, 1)[:-1], LIVE)
    world = await world_with(ledger, CoordinatorState(next_group_id=2))
    with pytest.raises(OprimeError, match=r"ledger is damaged .*fewer than their 4 rollouts: 1.*oprime resume"):
        await Restore(world.settings, world.queue, world.clock).from_queue()


@pytest.mark.parametrize("damage", ["partial", "missing"])
async def test_a_torn_checkpoint_is_refused_and_nothing_is_written(tmp_path: Path, damage: str) -> None:
    whole = dict.fromkeys(names(0, 1, 2), "trained:1")
    torn = {name: state for name, state in whole.items() if name != "1:2" and (damage == "partial" or not name.startswith("1:"))}
    world = World(seed=1, max_staleness=1, steps=6)
    folder = checkpoint(tmp_path, torn, CoordinatorState(next_group_id=3, next_step=2, committed_step=1))
    with pytest.raises(CheckpointError, match=r"is not whole .*: remove the folder of its step"):
        await Restore(world.settings, world.queue, world.clock).from_checkpoint(folder, 1, ticket_of(world))
    assert await world.queue.ledger_counts() == {"issued": 0, LIVE: 0}


async def test_prompts_that_were_passed_over_are_not_missing(tmp_path: Path) -> None:
    world = World(seed=1, max_staleness=1, steps=6)
    state = CoordinatorState(next_group_id=3, next_step=2, committed_step=1, passed_over=1)
    folder = checkpoint(tmp_path, dict.fromkeys(names(0, 2), "trained:1"), state)
    restored = await Restore(world.settings, world.queue, world.clock).from_checkpoint(folder, 1, ticket_of(world))
    assert restored.state.passed_over == 1


async def test_a_group_that_was_under_way_at_a_checkpoint_is_issued_again_whole(tmp_path: Path) -> None:
    # One of its rollouts had been dropped and two were trained on later: the new ticket asks for all of them again.
    ledger = dict.fromkeys(names(0, 1), "trained:1") | {"1:0": "dropped:undecided", "1:1": "trained:2", "1:2": "trained:2", "1:3": LIVE}
    world = World(seed=1, max_staleness=1, steps=6)
    folder = checkpoint(tmp_path, ledger, CoordinatorState(next_group_id=2, next_step=3, committed_step=2))
    restored = await Restore(world.settings, world.queue, world.clock).from_checkpoint(folder, 1, ticket_of(world))
    (ticket,) = await world.queue.receive(TICKETS, "generator", wait_s=0)
    assert ticket.key == "1"
    assert restored.open_groups[1].lost == set()
    assert (await world.queue.snapshot()).ledger == dict.fromkeys(names(0), "trained:1") | dict.fromkeys(names(1), LIVE)


async def test_the_metrics_of_a_step_that_was_committed_are_told_again_after_a_crash() -> None:
    world = World(seed=1, max_staleness=0, steps=3)
    await world.begin()
    while world.loop.state.committed_step < 1:
        await world.turn()
    world.step_rows.clear()
    await world.start_coordinator()
    assert world.step_rows == [1], "whoever writes the file knows the rows that it has"


async def test_a_coordinator_whose_lease_another_took_decides_nothing_more() -> None:
    world = World(seed=1, max_staleness=1, steps=3)
    await world.begin()
    old = world.loop
    await world.start_coordinator()
    await world.queue.commit("x", moves=[LedgerMove(rollout_id="99:0", state=LIVE)])
    with pytest.raises(OprimeError, match="no longer this process"):
        await old.turn()
    assert set((await world.queue.snapshot()).ledger) == {"99:0"}
