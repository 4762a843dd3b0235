"""Rules of the Queue port that every adapter applies in the same way."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from oprime.ports import BATCHES, LIVE, SCORED, STREAMS, Committed, Delivery, Fence, LedgerMove, Output
from oprime.runtime.errors import FencedError, UnusableInputError

log = structlog.get_logger()

RolloutIdsOf = Callable[[str, bytes], Sequence[str]]
"""(stream, payload) -> ids of the rollouts that an entry carries; ValueError if the payload cannot be read."""

NOBODY = "returned"
"""Holder of entries that were given back."""

MIB = 2**20
PAYLOAD_LIMIT = 64 * MIB
BATCH_PAYLOAD_LIMIT = 500 * MIB
"""Below Redis's own limit of 512 MiB for one string."""

_TERMINAL_KINDS = ("trained", "baseline", "filtered", "dropped", "dead")
_COUNTED_WITHOUT_STEP = ("trained", "baseline")


def check_stream(stream: str) -> None:
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream!r}: streams are {', '.join(STREAMS)}")


def check_most(most: int) -> None:
    if most < 1:
        raise ValueError(f"receive of at most {most} entries: ask for 1 or more")


def check_outputs(outputs: Sequence[Output]) -> None:
    """Raise UnusableInputError if a payload is too big for its stream."""
    for output in outputs:
        check_stream(output.stream)
        limit = BATCH_PAYLOAD_LIMIT if output.stream in (BATCHES, SCORED) else PAYLOAD_LIMIT
        if len(output.payload) > limit:
            raise UnusableInputError(
                f"entry {output.key!r} for stream {output.stream} has {len(output.payload)} bytes; at most {limit} ({limit // MIB} MiB) "
                "fit: lower sampling.max_response_tokens or the number of rollouts per entry"
            )


def check_state(state: str) -> None:
    kind, colon, detail = state.partition(":")
    if state != LIVE and not (kind in _TERMINAL_KINDS and colon and detail):
        raise ValueError(
            f"unknown ledger state {state!r}: use live, trained:STEP, baseline:STEP, filtered:REASON, dropped:REASON or dead:STREAM"
        )


def check_moves(moves: Iterable[LedgerMove]) -> None:
    for move in moves:
        check_state(move.state)


def count_key(state: str) -> str:
    """Name under which the ledger counts a state: `trained` and `baseline` for every step, else the state itself."""
    kind = state.partition(":")[0]
    return kind if kind in _COUNTED_WITHOUT_STEP else state


def counts_of(states: Collection[str]) -> dict[str, int]:
    """The ledger's counts for rollouts in these states. Raises ValueError at an unknown state."""
    for state in states:
        check_state(state)
    return {"issued": len(states), LIVE: 0, **Counter(map(count_key, states))}


def shown_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of the states that occur, and always `issued` and `live`."""
    return {"issued": 0, LIVE: 0} | {state: number for state, number in counts.items() if number or state in ("issued", LIVE)}


def dead_state(stream: str) -> str:
    return f"dead:{stream}"


def rollouts_of(delivery: Delivery, rollout_ids_of: RolloutIdsOf) -> tuple[str, ...]:
    """The rollouts that die with an entry; its key if the payload cannot be read (the ledger passes over a key it does not know)."""
    try:
        return tuple(rollout_ids_of(delivery.stream, delivery.payload))
    except ValueError:
        return (delivery.key,)


def overdue_reason(delivery: Delivery, max_deliveries: int) -> str:
    """Why an entry that was delivered too often is set aside; logs it."""
    reason = (
        f"delivered {max_deliveries} times (queue.max_deliveries) and never acknowledged: the workers that take {delivery.stream!r} failed "
        "or fell silent each time; their logs say why"
    )
    log.warning("dead_letter", stream=delivery.stream, key=delivery.key, reason=reason)
    return reason


def refused(mark: str) -> Committed:
    """What becomes of a commit that consumes a dead letter; logs it."""
    log.warning("commit_refused", mark=mark, reason="its entry is a dead letter")
    return Committed.REFUSED


def fenced(fence: Fence | None, mark: str) -> FencedError:
    name = fence.name if fence else ""
    return FencedError(
        f"{mark} was not committed: the {name} of this run is no longer this process (another one took over, or the queue was emptied); "
        "this one stops"
    )
