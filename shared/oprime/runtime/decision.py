"""A decision: built once, committed until an answer comes, and only then part of anybody's memory.

Every stage of the loop ends in one. Whoever builds a second one because the answer to the first was lost decides twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from oprime.ports import Clock, Commits, Committed, Delivery, Fence, LedgerMove, Output, Payloads
from oprime.runtime.consume import patiently
from oprime.runtime.releases import drop_payloads


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the queue shall hold afterwards; the arguments of `Commits.commit`."""

    mark: str
    outputs: Sequence[Output] = ()
    moves: Sequence[LedgerMove] = ()
    values: Mapping[str, bytes | None] = field(default_factory=dict[str, bytes | None])
    consumed: Sequence[Delivery] = ()
    forget: Sequence[str] = ()
    written: Sequence[str] = ()
    """Names of the payloads that were written for it: if it does not count, nobody will ask for them."""


async def settle(
    queue: Commits, decision: Decision, clock: Clock, *, fence: Fence | None = None, payloads: Payloads | None = None
) -> Committed:
    """Commit `decision` until the queue answers; one that lost takes what was written for it away, if `payloads` is given.

    KNOWN means that the work counted before: by another worker, by the process that this one replaces, or by an earlier try
    whose answer was lost. Whoever needs to know what was decided then reads it from the queue. Raises FencedError.
    """
    tries = 0

    async def commit() -> Committed:
        nonlocal tries
        tries += 1
        return await queue.commit(
            decision.mark,
            outputs=decision.outputs,
            moves=decision.moves,
            values=decision.values,
            consumed=decision.consumed,
            forget=decision.forget,
            fence=fence,
        )

    committed = await patiently(commit, clock)
    # After a try without an answer the work that counts may be this one: then the names are left to the sweep.
    if payloads is not None and decision.written and (committed is Committed.REFUSED or (committed is Committed.KNOWN and tries == 1)):
        await drop_payloads(payloads, decision.written, clock)
    return committed
