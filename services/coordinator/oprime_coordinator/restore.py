"""Where a coordinator begins: from the queue if it holds the run, else from the newest complete checkpoint, else afresh."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from oprime.core.types import Ticket
from oprime.ports import LIVE, TICKETS, Output, Queue
from oprime.runtime.in_order import START_FROM
from oprime.wire.codec import ticket_to_proto
from oprime_coordinator.groups import OpenGroup
from oprime_coordinator.state import STATE, CoordinatorState

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    state: CoordinatorState
    open_groups: dict[int, OpenGroup] = field(default_factory=dict[int, OpenGroup])


async def restore_from_queue(queue: Queue) -> Restored | None:
    """The state that the queue holds; None for an empty queue."""
    saved = await queue.value(STATE)
    if saved is None:
        return None
    in_batches = {group_id for data in (await queue.values("batch/")).values() for group_id in json.loads(data or b"[]")}
    open_groups = open_groups_of({rollout_id: state async for rollout_id, state in queue.ledger_entries()}, without=in_batches)
    state = CoordinatorState.from_bytes(saved)
    log.info("restored_from_queue", next_step=state.next_step, committed_step=state.committed_step, open_groups=len(open_groups))
    return Restored(state=state, open_groups=open_groups)


async def restore_from_checkpoint(queue: Queue, directory: Path, step: int, ticket_of: Callable[[int], Ticket]) -> Restored:
    """Refill an empty queue from a checkpoint; groups that were under way are issued again with their seeds."""
    state = CoordinatorState.from_bytes((directory / "state.json").read_bytes())
    ledger: dict[str, str] = json.loads((directory / "ledger.json").read_text(encoding="utf-8"))
    ledger = {rollout_id: as_of(state, step) for rollout_id, state in ledger.items()}
    open_groups = open_groups_of(ledger, without=set())
    await queue.restore_ledger(ledger)
    for group_id in sorted(open_groups):
        ticket = Output(stream=TICKETS, key=str(group_id), payload=ticket_to_proto(ticket_of(group_id)).SerializeToString())
        await queue.commit(f"issue_again:{group_id}", outputs=[ticket])
    # Batches that were cut but not committed at the checkpoint are cut anew from the re-issued groups.
    from_step = CoordinatorState(
        next_group_id=state.next_group_id,
        next_step=step + 1,
        committed_step=step,
        accepted=state.accepted,
        decided=state.decided,
        rollouts=state.rollouts,
        tokens=state.tokens,
    )
    await queue.commit(f"restore:{step}", values={STATE: from_step.to_bytes(), START_FROM: str(step).encode()})
    log.info("restored_from_checkpoint", step=step, open_groups=len(open_groups))
    return Restored(state=from_step, open_groups=open_groups)


def as_of(state: str, step: int) -> str:
    """A ledger state as it was when `step` was committed: what was trained later, or compared with, is live again."""
    kind, _, used_at = state.partition(":")
    return LIVE if kind in ("trained", "baseline") and int(used_at) > step else state


def open_groups_of(ledger: Mapping[str, str], *, without: set[int]) -> dict[int, OpenGroup]:
    """Groups with a live rollout, as far as the ledger knows them."""
    states: dict[int, dict[int, str]] = defaultdict(dict)
    for rollout_id, state in ledger.items():
        group, _, index = rollout_id.partition(":")
        states[int(group)][int(index)] = state
    return {
        group_id: OpenGroup(group_id, len(rollouts), lost={index for index, state in rollouts.items() if state != LIVE})
        for group_id, rollouts in sorted(states.items())
        if LIVE in rollouts.values() and group_id not in without
    }
