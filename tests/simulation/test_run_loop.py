"""The run loop under seeded faults. A failure prints its seed in the test's name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from oprime.core.types import Ticket
from oprime.ports import BATCHES, LIVE, STEPS, TICKETS, VERDICTS, Output, payload_owner
from oprime.runtime.errors import OprimeError
from oprime.wire.codec import batch_from_proto
from oprime_coordinator.restore import Restore
from oprime_proto.v1 import common_pb2 as pb
from simulation.faults import Fault
from simulation.world import GROUP_SIZE, Estimator, World

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


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
    restored = await Restore(world.settings, world.queue, world.clock).from_queue()
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
    await world.close_ledger()
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
    await world.close_ledger()
    counts = await world.queue.ledger_counts()
    assert counts.get(LIVE, 0) == 0
    assert counts["trained"] == 6 * 4 * GROUP_SIZE


@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_a_calm_run_leaves_no_payload(max_staleness: int) -> None:
    world = await finished(World(seed=2, max_staleness=max_staleness, steps=6))
    await world.end()
    # What was under way when the run ended is swept; all else went when the need for it did.
    left = {payload_owner(name).partition("/")[2].partition(":")[0] for name in world.payloads.names()}
    states = {name: state async for name, state in world.queue.ledger_entries()}
    assert {states[f"{group}:0"] for group in left} <= {"dropped:run_ended"}
    await world.sweep()
    assert list(world.payloads.names()) == []


@pytest.mark.parametrize("max_staleness", [0, 1, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
async def test_whatever_dies_payloads_are_there_while_needed_and_gone_in_the_end(max_staleness: int, estimator: Estimator) -> None:
    # That they are there while needed is asserted wherever the world reads one.
    world = World(
        seed=7, max_staleness=max_staleness, steps=8, estimator=estimator, crash_share=0.05, fault_share=0.01, unscored_share=0.05
    )
    await finished(world)
    await world.end()
    await world.sweep()
    assert list(world.payloads.names()) == []


async def test_the_sweep_keeps_what_a_dead_letters_replay_needs() -> None:
    world = await finished(World(seed=3, max_staleness=1, steps=4, error_share=0.2))
    await world.end()
    await world.sweep()
    states = {name: state async for name, state in world.queue.ledger_entries()}
    dead = {name for name, state in states.items() if state.startswith("dead:")}
    kept = {payload_owner(name) for name in world.payloads.names()}
    assert kept == {f"{kind}/{name}" for kind in ("rollout", "text") for name in dead} | {f"task/{name.partition(':')[0]}" for name in dead}


@pytest.mark.parametrize(("crash_share", "max_staleness"), [(0.0, 0), (0.0, 4), (0.1, 1), (0.1, 4)])
async def test_every_step_knows_what_was_verified_for_it(crash_share: float, max_staleness: int) -> None:
    world = await finished(World(seed=4, max_staleness=max_staleness, steps=10, crash_share=crash_share))
    rows = [world.step_metrics[step] for step in range(1, 11)]
    assert [row["groups_accepted"] for row in rows] == [4] * 10
    assert [row["trained_to_4_tokens"] for row in rows] == [4 * GROUP_SIZE] * 10
    assert all(0 < row["outcome_reward_mean"] < 1 for row in rows)


async def test_marks_are_forgotten_when_no_repetition_can_meet_them_again() -> None:
    world = await finished(World(seed=2, max_staleness=2, steps=12, right_share=0.4))
    under_way = len(world.loop.open) + len(world.loop.ready)
    kinds = Counter(mark.partition(":")[0] for mark in world.queue.marks)
    # Trainers may repeat a step until a checkpoint contains it; there is one such mark a step.
    assert {kind: kinds.pop(kind) for kind in ("score", "train", "seen")} == {"score": 12, "train": 12, "seen": 12}
    assert kinds["generate"] + kinds["decide"] <= 2 * under_way
    assert kinds["verify"] <= GROUP_SIZE * under_way
    assert kinds["issue"] == 1
    assert kinds.keys() == {"generate", "decide", "verify", "issue", "begin"}


async def test_step_rows_are_written_once_per_step_without_crashes() -> None:
    world = await finished(World(seed=2, max_staleness=1, steps=6))
    assert world.step_rows == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("estimator", ["rloo", "remax"])
async def test_a_run_that_lost_its_queue_goes_on_from_a_checkpoint(tmp_path: Path, estimator: Estimator) -> None:
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
    again.loop = again.new_loop()

    async def ticket_again(group_id: int) -> Ticket:
        ticket = await again.loop.ticket(group_id)
        assert ticket is not None
        return ticket

    restored = await Restore(again.settings, again.queue, again.clock).from_checkpoint(tmp_path, 4, ticket_again)
    await again.loop.begin(restored)
    await again.run()

    assert sorted(again.groups_by_step) == [5, 6, 7, 8]
    earlier = {group for groups in trained_before.values() for group in groups}
    later = [group for groups in again.groups_by_step.values() for group in groups]
    assert not earlier & set(later)
    assert len(later) == len(set(later))
    assert set(again.compared_with) == ({f"{group}:{GROUP_SIZE}" for group in later} if estimator == "remax" else set())


FAULTY_WORLDS: list[tuple[int, int, Estimator]] = [
    (seed, max_staleness, estimator) for seed in range(500) for max_staleness in (0, 1, 2, 4) for estimator in ESTIMATORS[seed % 2 :][:1]
]
QUICK_WORLDS: list[tuple[int, int, Estimator]] = [*FAULTY_WORLDS[:100], (334, 0, "rloo"), (45, 1, "remax")]


async def lives_through_faults(seed: int, max_staleness: int, estimator: Estimator) -> None:
    """Every call of every stage may not be done, be done without an answer, or kill its caller before or after."""
    size: dict[str, Any] = {"steps": 5, "groups_per_batch": 3, "group_size": 2, "right_share": 0.7}
    world = World(seed=seed, max_staleness=max_staleness, estimator=estimator, fault_share=0.08, crash_share=0.02, **size)
    await finished(world)
    assert [len(world.groups_by_step[step]) for step in range(1, 6)] == [3] * 5
    assert set(world.trained.values()) == {1}
    assert max(world.staleness) <= max_staleness
    await world.close_ledger()
    counts = await world.queue.ledger_counts()
    assert counts.get(LIVE, 0) == 0
    assert counts["trained"] == 5 * 3 * 2
    assert sum(number for state, number in counts.items() if state.startswith("dead")) == 0
    for fault in Fault:
        assert world.faults[fault] or seed, "all faults happened in the first world"
    if max_staleness == 0:
        calm = await finished(World(seed=seed, max_staleness=0, estimator=estimator, **size))
        assert world.groups_by_step == calm.groups_by_step
        # What a step's row says of its groups survives every death of the coordinator.
        assert [_of_groups(world.step_metrics[step]) for step in range(1, 6)] == [
            _of_groups(calm.step_metrics[step]) for step in range(1, 6)
        ]


def _of_groups(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith(("groups_", "acceptance", "outcome_reward"))}


@pytest.mark.parametrize(("seed", "max_staleness", "estimator"), QUICK_WORLDS)
async def test_lost_calls_lost_answers_and_deaths_lose_nothing_and_count_nothing_twice(
    seed: int, max_staleness: int, estimator: Estimator
) -> None:
    await lives_through_faults(seed, max_staleness, estimator)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_two_thousand_worlds_lose_nothing_and_count_nothing_twice() -> None:
    assert len(FAULTY_WORLDS) == 2000
    for world in FAULTY_WORLDS[100:]:
        try:
            await lives_through_faults(*world)
        except Exception as error:
            raise AssertionError(f"(seed, max_staleness, estimator) = {world}") from error


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
async def test_tickets_that_somebody_removed_are_issued_again(max_staleness: int) -> None:
    world = World(seed=3, max_staleness=max_staleness, steps=6)
    await world.begin()
    for turn in range(400):
        if turn in (3, 40, 80):
            waiting = await world.queue.receive(TICKETS, "somebody", most=9, wait_s=0)
            await world.queue.acknowledge(waiting)
        await world.turn()
    assert world.loop.state.committed_step == 6
    assert set(world.trained.values()) == {1}
    assert len(world.trained) == 6 * 4 * GROUP_SIZE


@pytest.mark.parametrize("stream", [VERDICTS, STEPS])
async def test_an_unreadable_entry_is_set_aside_and_the_run_goes_on_also_after_a_restart(stream: str) -> None:
    world = World(seed=1, max_staleness=1, steps=6)
    await world.begin()
    await world.turn()
    for number, payload in enumerate((b"\xff\xff", b"")):
        await world.queue.commit(f"bad:{number}", outputs=[Output(stream=stream, key=f"{number}:x", payload=payload)])
    await world.start_coordinator()
    await world.run()
    assert {(letter.stream, letter.key) for letter in await world.queue.dead_letters()} == {(stream, "0:x"), (stream, "1:x")}
    assert set(world.trained.values()) == {1}


async def test_a_dead_ticket_that_is_replayed_while_the_run_goes_on_is_decided_like_any_other() -> None:
    world = World(seed=4, max_staleness=4, steps=12)
    await world.begin()
    await world.loop.turn()
    (ticket,) = await world.queue.receive(TICKETS, "somebody", most=1, wait_s=0)
    await world.queue.dead_letter(ticket, reason="by hand")
    while int(ticket.key) in world.loop.open:
        await world.turn()
    (letter,) = await world.queue.dead_letters()
    assert await world.queue.replay(letter)
    await world.run()
    await check_that_the_ledger_knows_what_was_trained(world)
    states = {name: state async for name, state in world.queue.ledger_entries() if name.startswith(f"{ticket.key}:")}
    assert len(states) == GROUP_SIZE
    assert {state.partition(":")[0] for state in states.values()} in ({"trained"}, {"filtered"}), states


async def test_a_replayed_rollout_whose_siblings_were_trained_without_it_ends_for_that_reason() -> None:
    world = World(seed=4, max_staleness=4, steps=8, error_share=0.1)
    await world.begin()
    while not (letters := [letter for letter in await world.queue.dead_letters() if f"{letter.key.partition(':')[0]}:0" in world.trained]):
        await world.turn()
    world.error_share = 0.0
    assert await world.queue.replay(letters[0])
    await world.run()
    assert (await world.queue.ledger_states([letters[0].key]))[letters[0].key] == "dropped:siblings_lost"
    await check_that_the_ledger_knows_what_was_trained(world)


@pytest.mark.parametrize("max_staleness", [1, 2, 4])
async def test_next_to_nothing_that_was_admitted_becomes_too_old(max_staleness: int) -> None:
    stale = issued = 0
    for seed in range(12):
        counts = await (await finished(World(seed=seed, max_staleness=max_staleness, steps=10))).queue.ledger_counts()
        stale, issued = stale + counts.get("dropped:stale", 0), issued + counts["issued"]
    assert stale / issued < 0.01


async def test_slow_prompts_are_trained_on_like_quick_ones() -> None:
    world = World(seed=1, max_staleness=1, steps=30, slow_share=0.2)
    await finished(world)
    counts = await world.queue.ledger_counts()
    assert counts.get("dropped:stale", 0) == 0
    trained = {int(name.partition(":")[0]) for name in world.trained}
    slow = [group_id for group_id in trained if world.is_slow(group_id)]
    assert len(slow) / len(trained) == pytest.approx(0.2, abs=0.1)
