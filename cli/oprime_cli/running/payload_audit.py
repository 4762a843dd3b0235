"""The payloads of a run: none missing that somebody will ask for, none there that nobody will."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.system_clock import SystemClock
from oprime.core.payload_needs import is_known, rollouts_of, unneeded
from oprime.ports import Payloads, Queue, payload_owner, payload_written_at
from oprime.runtime.releases import released_steps
from oprime.runtime.setting_rules import trainers_of
from oprime.wire.payload_names import NAMING, payload_names
from oprime_cli.run_config import RunConfig
from oprime_cli.running.redis_server import open_queue
from oprime_coordinator.sweep import Sweep

LOOKS = 3
LOOK_AGAIN_S = 0.3
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadAudit:
    stored: int
    missing: tuple[str, ...]
    """Named by an entry that somebody will work on, and not in the store."""
    orphaned: tuple[str, ...]
    """Nobody needs them, and they are too old to be on their way; a coordinator at work sweeps them."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return tuple(
            f"{len(names)} payloads are {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
            for what, names in (("missing", self.missing), ("orphaned", self.orphaned))
            if names
        )


async def audit_payloads(queue: Queue, payloads: Payloads, config: RunConfig) -> PayloadAudit:
    """Look several times where the run is at work: what is missing or needless each time is so."""
    found = await _look(queue, payloads, config)
    for _ in range(LOOKS - 1):
        if not found.findings:
            break
        await asyncio.sleep(LOOK_AGAIN_S)
        again = await _look(queue, payloads, config)
        found = PayloadAudit(
            stored=again.stored, missing=_in_both(found.missing, again.missing), orphaned=_in_both(found.orphaned, again.orphaned)
        )
    return found


async def sweep_payloads(config: RunConfig) -> int:
    """Drop what nobody needs, of a run whose services have all stopped: nothing is on its way. Returns how many payloads that were."""
    payloads = open_payloads(config.payloads, config.own_queue, config.run.name)
    try:
        async with open_queue(config) as queue:
            size = config.sampling.group_size + config.algorithm.needs_greedy_baseline
            sweep = Sweep(
                queue, payloads, SystemClock(), group_size=size, trainers=trainers_of(config.algorithm), lease_s=config.queue.lease_s
            )
            return await sweep.once(grace_s=0)
    finally:
        payloads.close()


async def _look(queue: Queue, payloads: Payloads, config: RunConfig) -> PayloadAudit:
    named = {name async for name in _named(queue)}
    stored = set(await asyncio.to_thread(lambda: list(payloads.names())))
    needless = await _needless(queue, stored | named, config)
    # What was written a moment ago belongs to a commit that is still to come.
    young = time.time() - 2 * config.queue.lease_s
    return PayloadAudit(
        stored=len(stored),
        missing=tuple(sorted(named - stored - needless)),
        orphaned=tuple(sorted(name for name in stored & needless if payload_written_at(name) < young)),
    )


async def _named(queue: Queue) -> AsyncIterator[str]:
    for stream in NAMING:
        async for entry in queue.entries(stream):
            for name in payload_names(stream, entry):
                yield name


async def _needless(queue: Queue, names: Collection[str], config: RunConfig) -> set[str]:
    owners = {name: payload_owner(name) for name in names}
    size = config.sampling.group_size + config.algorithm.needs_greedy_baseline
    rollouts = sorted({rollout for owner in owners.values() if is_known(owner) for rollout in rollouts_of(owner, group_size=size)})
    states = await queue.ledger_states(rollouts)
    released = await released_steps(queue, trainers_of(config.algorithm))
    return set(unneeded(owners, states, released, group_size=size))


def _in_both(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in second if name in set(first))
