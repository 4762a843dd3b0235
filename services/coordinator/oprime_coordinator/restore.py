"""Where a coordinator begins: from the queue if it holds the run, else from the newest complete checkpoint, else afresh."""

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from oprime.core.ledger_audit import ledger_findings
from oprime.core.staleness import min_weight_version
from oprime.core.types import Ticket, rollout_id
from oprime.ports import LIVE, TICKETS, Clock, Fence, Output, Queue
from oprime.runtime.consume import patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.errors import CheckpointError, OprimeError
from oprime.runtime.in_order import START_FROM
from oprime.wire.codec import ticket_to_proto
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.groups import OpenGroup
from oprime_coordinator.state import STATE, CoordinatorState
from oprime_coordinator.step_statistics import STATISTICS

log = structlog.get_logger()

_BATCHES = "batch/"
_ROWS = "row/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    state: CoordinatorState
    open_groups: Mapping[int, OpenGroup] = field(default_factory=dict[int, OpenGroup])
    batches: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Groups of the batches that were cut and not seen committed, by step."""
    statistics: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """What belongs to those batches, as `StepStatistics` keeps it."""
    rows: Mapping[int, dict[str, float]] = field(default_factory=dict[int, dict[str, float]])
    """Metrics of the newest committed step, which may be missing in the file."""


class Restore:
    """Rebuilds a run's state. What it writes carries the fence of its coordinator."""

    def __init__(self, settings: CoordinatorSettings, queue: Queue, clock: Clock, fence: Fence | None = None) -> None:
        self._size = settings.rollouts_per_group
        self._has_baseline = settings.algorithm.needs_greedy_baseline
        self._bound = settings.staleness.max_staleness
        self._queue = queue
        self._clock = clock
        self._fence = fence

    async def afresh(self) -> Restored:
        state = CoordinatorState()
        await self._settle(Decision(mark="begin", values={STATE: state.to_bytes(), START_FROM: b"0"}))
        return Restored(state=state)

    async def from_queue(self) -> Restored | None:
        """The state that the queue holds; None for an empty queue. Raises OprimeError if its ledger is not whole."""
        snapshot = await patiently(self._queue.snapshot, self._clock)
        saved = snapshot.values.get(STATE)
        if saved is None:
            return None
        state = CoordinatorState.from_bytes(saved)
        if findings := self._findings(snapshot.ledger, state):
            raise OprimeError(
                f"the queue's ledger is damaged ({'; '.join(findings)}): remove the queue's data and resume from the newest checkpoint "
                "(oprime resume)"
            )
        batches = {int(name.removeprefix(_BATCHES)): tuple(json.loads(data)) for name, data in _named(snapshot.values, _BATCHES)}
        rows = {int(name.removeprefix(_ROWS)): json.loads(data) for name, data in _named(snapshot.values, _ROWS)}
        in_batches = {group_id for groups in batches.values() for group_id in groups}
        open_groups = self._open_groups(snapshot.ledger, state, without=in_batches)
        log.info("restored_from_queue", next_step=state.next_step, committed_step=state.committed_step, open_groups=len(open_groups))
        statistics = dict(_named(snapshot.values, STATISTICS))
        return Restored(state=state, open_groups=open_groups, batches=batches, statistics=statistics, rows=rows)

    async def from_checkpoint(self, directory: Path, step: int, ticket_of: Callable[[int], Awaitable[Ticket]]) -> Restored:
        """Refill an empty queue from a checkpoint; groups that were under way are issued again, whole, with their seeds.

        Raises CheckpointError for a checkpoint whose ledger lacks what was issued.
        """
        saved = CoordinatorState.from_bytes((directory / "state.json").read_bytes())
        ledger: dict[str, str] = json.loads((directory / "ledger.json").read_text(encoding="utf-8"))
        if findings := self._findings(ledger, saved):
            raise CheckpointError(
                f"the checkpoint {directory} is not whole ({'; '.join(findings)}): remove the folder of its step to resume from the one "
                "before"
            )
        ledger = {name: as_of(state, step) for name, state in ledger.items()}
        # Batches that were cut but not committed at the checkpoint are cut anew from the groups that are issued again.
        state = replace(saved, next_step=step + 1, committed_step=step)
        again = self._open_groups(ledger, state, without=set())
        ledger |= {rollout_id(group_id, index): LIVE for group_id in again for index in range(self._size)}
        open_groups = self._open_groups(ledger, state, without=set())
        await patiently(lambda: self._queue.restore_ledger(ledger, fence=self._fence), self._clock)
        for group_id in sorted(open_groups):
            ticket = ticket_to_proto(await ticket_of(group_id)).SerializeToString()
            output = Output(stream=TICKETS, key=str(group_id), payload=ticket)
            await self._settle(Decision(mark=f"issue_again:{group_id}", outputs=[output]))
        await self._settle(Decision(mark=f"restore:{step}", values={STATE: state.to_bytes(), START_FROM: str(step).encode()}))
        log.info("restored_from_checkpoint", step=step, open_groups=len(open_groups))
        return Restored(state=state, open_groups=open_groups)

    def _findings(self, ledger: Mapping[str, str], state: CoordinatorState) -> list[str]:
        return ledger_findings(ledger, next_group_id=state.next_group_id, size=self._size, passed_over=state.passed_over)

    def _open_groups(self, ledger: Mapping[str, str], state: CoordinatorState, *, without: set[int]) -> dict[int, OpenGroup]:
        """Groups with a live rollout. The age of their weights is unknown, so the next batch waits for them."""
        states: dict[int, dict[int, str]] = defaultdict(dict)
        for name, rollout_state in ledger.items():
            group, _, index = name.partition(":")
            states[int(group)][int(index)] = rollout_state
        return {
            group_id: OpenGroup(
                group_id,
                self._size,
                has_baseline=self._has_baseline,
                version=min_weight_version(state.next_step, self._bound),
                lost={index for index, rollout_state in rollouts.items() if rollout_state != LIVE},
            )
            for group_id, rollouts in sorted(states.items())
            if LIVE in rollouts.values() and group_id not in without
        }

    async def _settle(self, decision: Decision) -> None:
        await settle(self._queue, decision, self._clock, fence=self._fence)


def as_of(state: str, step: int) -> str:
    """A ledger state as it was when `step` was committed: what was trained later, or compared with, is live again."""
    kind, _, used_at = state.partition(":")
    return LIVE if kind in ("trained", "baseline") and int(used_at) > step else state


def _named(values: Mapping[str, bytes], prefix: str) -> list[tuple[str, bytes]]:
    return [(name, data) for name, data in sorted(values.items()) if name.startswith(prefix)]
