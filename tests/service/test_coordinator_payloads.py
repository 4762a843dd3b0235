"""Which payloads of a group are there at which moment: what the coordinator writes, what it ends, and what its sweep ends."""

import asyncio
import time
from collections import defaultdict

import pytest
from structlog.testing import capture_logs

from fakes import ManualClock
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.memory_queue import MemoryQueue
from oprime.ports import LIVE, Clock, LedgerMove, payload_owner
from oprime.runtime.releases import RELEASED
from oprime_coordinator.sweep import Sweep
from simulation.world import GROUP_SIZE, AutoClock, World

# Decisions


async def sampled_and_judged(world: World) -> None:
    """Every group that was issued so far has its verdicts, and the coordinator has decided; it has issued new ones since."""
    await world.begin()
    await world.loop.turn()
    while world.sampling or (await world.queue.depth("tickets")).waiting:
        await world.generator_turn()
    while (await world.queue.depth("rollouts")).waiting:
        await world.verifier_turn()
    world.clock.time += 2  # The coordinator looks for dead letters once a second.
    await world.loop.turn()


async def states_of(world: World) -> dict[str, str]:
    return {name: state async for name, state in world.queue.ledger_entries()}


def stored(world: World) -> dict[str, int]:
    """Number of payloads by owner."""
    found: dict[str, int] = defaultdict(int)
    for name in world.payloads.names():
        found[payload_owner(name)] += 1
    return dict(found)


def of_rollouts(*names: str) -> dict[str, int]:
    return {f"{kind}/{name}": 1 for kind in ("rollout", "text") for name in names}


async def test_what_judges_a_group_is_written_once_and_nothing_else_before_it_is_sampled() -> None:
    world = World(seed=1, max_staleness=1, steps=3)
    await world.begin()
    await world.loop.turn()
    assert len(world.loop.open) > 1
    assert stored(world) == {f"task/{group_id}": 1 for group_id in world.loop.open}


async def test_a_decision_ends_what_judged_its_group_and_a_refusal_its_rollouts_too() -> None:
    world = World(seed=1, max_staleness=1, steps=3)
    await sampled_and_judged(world)
    states = await states_of(world)
    filtered = {name for name, state in states.items() if state.startswith("filtered:")}
    waiting = {name for name, state in states.items() if state == LIVE and int(name.partition(":")[0]) not in world.loop.open}
    assert len(filtered) >= GROUP_SIZE
    assert len(waiting) >= GROUP_SIZE
    # Rollouts that wait for their batch, or for its step, and the tickets that were issued after the decisions.
    assert stored(world) == of_rollouts(*waiting) | {f"task/{group_id}": 1 for group_id in world.loop.open}


async def test_a_dead_letter_keeps_what_its_replay_needs_whatever_becomes_of_its_group() -> None:
    world = World(seed=2, max_staleness=1, steps=3, error_share=0.2)
    await sampled_and_judged(world)
    states = await states_of(world)
    dead = {name for name, state in states.items() if state == "dead:rollouts"}
    beside = {name for name, state in states.items() if state.startswith("filtered:")}
    assert {name.partition(":")[0] for name in dead} & {name.partition(":")[0] for name in beside}, "a refused group has a dead letter"
    kept = stored(world)
    for name in dead:
        assert (of_rollouts(name) | {f"task/{name.partition(':')[0]}": 1}).items() <= kept.items()
    assert not of_rollouts(*beside).keys() & kept.keys()
    # The sweep sees it alike.
    assert await world.sweep() == 0
    assert stored(world) == kept


async def test_a_dead_letter_that_is_replayed_is_judged_and_then_its_payloads_end() -> None:
    world = World(seed=2, max_staleness=1, steps=3, error_share=0.2)
    await sampled_and_judged(world)
    states = await states_of(world)
    refused = {name.partition(":")[0] for name, state in states.items() if state.startswith("filtered:")}
    letter = next(letter for letter in await world.queue.dead_letters() if letter.key.partition(":")[0] in refused)
    world.error_share = 0.0
    assert await world.queue.replay(letter)
    await world.verifier_turn()  # Which asserts that it finds what it needs.
    await world.loop.turn()
    assert (await states_of(world))[letter.key] == "dropped:siblings_lost"
    assert not of_rollouts(letter.key).keys() & stored(world).keys()


# The sweep

LEASE_S = 30.0
GRACE_S = 2 * LEASE_S


class Store:
    """A ledger and a store of payloads, of groups of two."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.written_ago_s = 1000.0
        self.payloads = MemoryPayloads(now=lambda: time.time() - self.written_ago_s)
        clock = clock or AutoClock()
        self.queue = MemoryQueue(clock)
        self.sweep = Sweep(self.queue, self.payloads, clock, group_size=2, trainers=("prm", "learner"), lease_s=LEASE_S)

    async def issue(self, group_id: int, *states: str) -> None:
        """One rollout per state."""
        names = [f"{group_id}:{index}" for index in range(len(states))]
        await self.queue.commit(f"issue:{group_id}", moves=[LedgerMove(rollout_id=name, state=LIVE) for name in names])
        ended = [LedgerMove(rollout_id=name, state=state) for name, state in zip(names, states, strict=True) if state != LIVE]
        await self.queue.commit(f"end:{group_id}", moves=ended)

    async def release(self, *, prm: int, learner: int) -> None:
        for trainer, step in (("prm", prm), ("learner", learner)):
            await self.queue.set_value(RELEASED + trainer, str(step).encode())

    def write(self, *owners: str) -> None:
        self.payloads.put_many([(owner, b"") for owner in owners])

    def owners(self) -> set[str]:
        return {payload_owner(name) for name in self.payloads.names()}


OF_ONE = ("rollout/5:0", "text/5:0", "reference/5:0")


@pytest.mark.parametrize(
    ("state", "rollout_stays", "material_stays"),
    [
        (LIVE, True, True),
        # A person may replay it.
        ("dead:rollouts", True, True),
        ("dead:batches", True, True),
        ("filtered:accuracy_low", False, False),
        ("dropped:stale", False, False),
        # The PRM's newest checkpoint contains step 6, the learner's step 4.
        ("trained:5", True, False),
        ("baseline:5", True, False),
        ("trained:4", False, False),
        ("baseline:4", False, False),
        ("trained:6", True, False),
    ],
)
async def test_the_sweep_ends_what_nobody_needs(state: str, rollout_stays: bool, material_stays: bool) -> None:
    store = Store()
    await store.issue(5, state, "filtered:accuracy_low")
    await store.release(prm=6, learner=4)
    store.write(*OF_ONE, "rollout/5:1", "text/5:1", "task/5")
    swept = await store.sweep.once()
    expected = {*(OF_ONE if rollout_stays else ()), *(("task/5",) if material_stays else ())}
    assert store.owners() == expected
    assert swept == 6 - len(expected)


async def test_the_sweep_keeps_rewards_until_the_learner_cannot_come_back_to_their_step() -> None:
    store = Store()
    await store.release(prm=9, learner=4)
    store.write("rewards/3", "rewards/4", "rewards/5", "rewards/10")
    assert await store.sweep.once() == 2
    assert store.owners() == {"rewards/5", "rewards/10"}


async def test_before_a_trainer_s_first_checkpoint_everything_it_may_come_back_to_stays() -> None:
    store = Store()
    await store.issue(5, "trained:1", "trained:1")
    await store.queue.set_value(RELEASED + "prm", b"3")
    store.write("rollout/5:0", "rewards/1")
    assert await store.sweep.once() == 0


async def test_what_a_death_left_of_a_rollout_that_another_worker_wrote_ends_with_that_rollout() -> None:
    """Two of one owner: which of them the entries name, only they know."""
    store = Store()
    await store.issue(5, LIVE, LIVE)
    store.write("rollout/5:0", "rollout/5:0")
    assert await store.sweep.once() == 0
    await store.queue.commit("decide:5", moves=[LedgerMove(rollout_id="5:0", state="filtered:accuracy_low")])
    assert await store.sweep.once() == 2


@pytest.mark.parametrize(("ago_s", "swept"), [(GRACE_S - 5, 0), (GRACE_S + 5, 3)])
async def test_what_was_written_within_two_leases_is_left_to_the_commit_that_is_still_to_come(ago_s: float, swept: int) -> None:
    store = Store()
    await store.issue(7, "dropped:stale", "dropped:stale")
    store.written_ago_s = ago_s
    store.write("task/7", "rollout/7:0", "text/7:0")
    assert await store.sweep.once() == swept


async def test_what_judges_a_group_waits_for_its_tickets_however_long_the_queue_is_away() -> None:
    """It is written before the commit that issues the group, which then tries again and again."""
    store = Store()
    store.write("task/7")
    assert await store.sweep.once() == 0
    await store.issue(7, LIVE, LIVE)
    # By a coordinator that died in between, and by the one that issued the group after it.
    store.write("task/7")
    assert await store.sweep.once() == 0
    await store.queue.commit("decide:7", moves=[LedgerMove(rollout_id=f"7:{index}", state="dropped:stale") for index in range(2)])
    assert await store.sweep.once() == 2


@pytest.mark.parametrize("ago_s", [0.0, -5.0])
async def test_after_the_last_step_nothing_is_to_come(ago_s: float) -> None:
    store = Store()
    # Its writer's clock may be ahead.
    store.written_ago_s = ago_s
    store.write("task/7", "rollout/7:0")
    assert await store.sweep.once(grace_s=0) == 2


async def test_what_the_sweep_does_not_know_is_somebody_else_s() -> None:
    store = Store()
    store.write("backup/7")
    assert await store.sweep.once(grace_s=0) == 0


# The last sweep, of a run whose services end with it


async def test_the_last_sweep_waits_for_those_who_still_write_and_then_spares_nothing_young() -> None:
    clock = ManualClock()
    store = Store(clock)
    store.written_ago_s = 0.0
    await store.issue(5, "filtered:accuracy_low", "filtered:accuracy_low")
    await store.queue.set_value("learner/0", b"{}", expires_s=40.0)
    sweeping = asyncio.create_task(store.sweep.last())
    await clock.run_for(38)
    store.write("text/5:0")
    assert not sweeping.done()
    await clock.run_for(4)
    await asyncio.wait_for(sweeping, 10)
    assert store.owners() == set()


async def test_the_last_sweep_goes_on_without_those_who_stay_and_touches_nothing_young() -> None:
    store = Store()
    store.written_ago_s = 0.0
    await store.issue(5, "filtered:accuracy_low", "filtered:accuracy_low")
    store.write("text/5:0")
    await store.queue.set_value("verifier/a", b"{}")
    with capture_logs() as logs:
        await store.sweep.last()
    assert [entry["event"] for entry in logs] == ["others_stayed"]
    assert store.owners() == {"text/5:0"}
