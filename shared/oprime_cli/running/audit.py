"""The ledger of a run: every rollout that was issued is accounted for, or it is not."""

from dataclasses import dataclass

from oprime.ports import LIVE
from oprime_cli.run_config import RunConfig
from oprime_cli.running.redis_server import open_queue

ISSUED = "issued"
KINDS = ("trained", "baseline", "filtered", "dropped", "dead", LIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The ledger's running counts beside a count of its entries."""

    counts: dict[str, int]
    """`issued` and the number of rollouts in each state, as Redis keeps them."""
    recount: dict[str, int]
    """The same, counted entry by entry."""
    before: dict[str, int]
    """The counts when counting began; equal to `counts` unless the run is at work."""

    @property
    def closed(self) -> bool:
        """issued = trained + baseline + filtered + dropped + dead + live, and the entries say the same.

        While the run works, terminal states only grow, so the recount must lie between the counts before and after it.
        """
        states = {*self.before, *self.counts, *self.recount} - {LIVE}
        between = all(self.before.get(state, 0) <= self.recount.get(state, 0) <= self.counts.get(state, 0) for state in states)
        return is_closed(self.counts) and between


def is_closed(counts: dict[str, int]) -> bool:
    return counts.get(ISSUED, 0) == sum(number for state, number in counts.items() if state != ISSUED)


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
    """Read the counts, count the entries, read the counts again."""
    async with open_queue(config) as queue:
        before = await queue.ledger_counts()
        recount = recounted({rollout: state async for rollout, state in queue.ledger_entries()})
        counts = await queue.ledger_counts()
    return Audit(counts=_present(counts), recount=_present(recount), before=_present(before))


def _present(counts: dict[str, int]) -> dict[str, int]:
    """Counts of states that occur, and always `issued` and `live`."""
    return {state: number for state, number in sorted(counts.items()) if number or state in (ISSUED, LIVE)}
