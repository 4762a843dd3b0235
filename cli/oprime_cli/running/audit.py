"""The ledger of a run: every rollout that was issued is accounted for, or it is not."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from oprime.adapters.open_payloads import open_payloads
from oprime.core.ledger_audit import ledger_findings
from oprime.ports import LIVE, Queue
from oprime_cli.run_config import RunConfig
from oprime_cli.running.payload_audit import PayloadAudit, audit_payloads
from oprime_cli.running.redis_server import open_queue
from oprime_coordinator.state import STATE

ISSUED = "issued"
NO_PAYLOADS = PayloadAudit(stored=0, missing=(), orphaned=())
KINDS = ("trained", "baseline", "filtered", "dropped", "dead", LIVE)
LOOKS = 3
LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The ledger's running counts beside a count of its entries."""

    counts: dict[str, int]
    """`issued` and the number of rollouts in each state, as Redis keeps them."""
    recount: dict[str, int]
    """The same, counted entry by entry."""
    before: dict[str, int]
    """The counts when counting began; equal to `counts` unless the run is at work."""
    groups: tuple[str, ...] = ()
    """What is wrong with the entries, group by group."""
    payloads: PayloadAudit = NO_PAYLOADS
    empty: bool = False
    """Whether Redis holds nothing of the run: no entry, no count and no state of the coordinator."""

    @property
    def closed(self) -> bool:
        """issued = trained + baseline + filtered + dropped + dead + live, the entries say the same, their groups are whole, and no
        payload is missing or orphaned."""
        return not self.findings

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return ("Redis holds nothing of this run",) if self.empty else (*self._miscounts(), *self.groups, *self.payloads.findings)

    def _miscounts(self) -> Iterator[str]:
        if not is_closed(self.counts):
            yield f"the counts do not add up: {self.counts.get(ISSUED, 0)} issued, {_in_states(self.counts)} in all states"
        # While the run works, terminal states only grow, so the recount must lie between the counts before and after it.
        for state in sorted({*self.before, *self.counts, *self.recount} - {LIVE}):
            least, found, most = (counts.get(state, 0) for counts in (self.before, self.recount, self.counts))
            if not least <= found <= most:
                yield f"{state}: the counts say {most}, the entries {found}"


def is_closed(counts: dict[str, int]) -> bool:
    return counts.get(ISSUED, 0) == _in_states(counts)


def _in_states(counts: dict[str, int]) -> int:
    return sum(number for state, number in counts.items() if state != ISSUED)


def by_kind(counts: dict[str, int]) -> dict[str, int]:
    """Counts without their reasons: issued, trained, filtered, dropped, dead, live, and baseline where there is one (ReMax)."""
    totals = {ISSUED: counts.get(ISSUED, 0), **dict.fromkeys(KINDS, 0)}
    for state, number in counts.items():
        kind = state.partition(":")[0]
        if kind in KINDS:
            totals[kind] += number
    return {kind: number for kind, number in totals.items() if number or kind != "baseline"}


def recounted(states: dict[str, str]) -> dict[str, int]:
    """Counts of (rollout id -> state)."""
    counts = {ISSUED: len(states), LIVE: 0}
    for state in states.values():
        kind = state.partition(":")[0]
        name = kind if kind in ("trained", "baseline") else state
        counts[name] = counts.get(name, 0) + 1
    return counts


async def audit(config: RunConfig) -> Audit:
    """Count the entries and look at every group. Looks again where the run was at work meanwhile and something seems wrong."""
    payloads = open_payloads(config.payloads, config.own_queue, config.run.name)
    try:
        async with open_queue(config) as queue:
            found = await _look(queue, config)
            for _ in range(LOOKS - 1):
                if found.closed or found.before == found.counts:
                    break
                await asyncio.sleep(LOOK_AGAIN_S)
                found = await _look(queue, config)
            return found if found.empty else replace(found, payloads=await audit_payloads(queue, payloads, config))
    finally:
        payloads.close()


async def _look(queue: Queue, config: RunConfig) -> Audit:
    before, began = await queue.ledger_counts(), await queue.value(STATE)
    states = {rollout: state async for rollout, state in queue.ledger_entries()}
    counts, ended = await queue.ledger_counts(), await queue.value(STATE)
    return Audit(
        counts=_present(counts),
        recount=_present(recounted(states)),
        before=_present(before),
        groups=_groups(states, began, ended, config),
        empty=ended is None and not states and not counts.get(ISSUED, 0),
    )


def _groups(states: dict[str, str], began: bytes | None, ended: bytes | None, config: RunConfig) -> tuple[str, ...]:
    """Findings on the groups that had been issued before the entries were read; later ones may be seen in part."""
    if began is None or ended is None:
        return ("the coordinator's state is gone, although the ledger has entries: Redis lost a part of the run",)
    first, last = _state(began), _state(ended)
    if first is None or last is None:
        return ("the coordinator's state cannot be read",)
    later = range(first["next_group_id"], last["next_group_id"])
    settled = {name: state for name, state in states.items() if not _is_in(name, later)}
    size = config.sampling.group_size + config.algorithm.needs_greedy_baseline
    return tuple(ledger_findings(settled, next_group_id=later.start, size=size, passed_over=first.get("passed_over")))


def _state(saved: bytes) -> dict[str, Any] | None:
    """The coordinator's state, if it has the number of groups."""
    try:
        state = json.loads(saved)
        int(state["next_group_id"])
    except (ValueError, TypeError, KeyError):
        return None
    return state


def _is_in(rollout_id: str, groups: range) -> bool:
    group = rollout_id.partition(":")[0]
    return group.isdigit() and int(group) in groups


def _present(counts: dict[str, int]) -> dict[str, int]:
    """Counts of states that occur, and always `issued` and `live`."""
    return {state: number for state, number in sorted(counts.items()) if number or state in (ISSUED, LIVE)}
