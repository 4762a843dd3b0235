"""The PRM's share of the train loop: each batch updated on and scored by all ranks, and committed once. Runs on rank 0.

takes      batches from `batches`; when none waits, verified rollouts that wait in `verdicts`, to compute their reference log-probs
gives      score:T  the batch's token rewards, by name
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog
from google.protobuf.message import DecodeError

from oprime.core.types import Batch, ScoredBatch, VerifiedRollout
from oprime.ports import SCORED, VERDICTS, Delivery, Output
from oprime.runtime.decision import Decision, settle
from oprime.runtime.entries import batch_of
from oprime.runtime.errors import QueueUnavailableError, RunEndedError
from oprime.runtime.in_order import SKIPPED
from oprime.runtime.releases import drop_payloads
from oprime.runtime.rollout_payloads import payload_names, require_present
from oprime.runtime.step_gauges import OF_PRM, show_step
from oprime.runtime.tracing import batch_span
from oprime.runtime.train_loop import TrainLoop
from oprime.wire.codec import event_from_proto, scored_batch_to_proto
from oprime_prm.config import PrmSettings
from oprime_prm.rank_methods import RankMethods, ScoredShares
from oprime_prm.references import KnownReferences, Unit, complete_units, units_of, units_to_bytes
from oprime_prm.samples import write_samples
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

CONSUMER = "prm"
AHEAD_S = 0.5
"""How long the PRM computes reference log-probs before it looks for a batch again."""


class TrainPrm:
    def __init__(self, settings: PrmSettings, loop: TrainLoop[Batch], methods: RankMethods) -> None:
        self._settings = settings
        self._loop = loop
        self._methods = methods
        self._references = KnownReferences()
        self._waiting_since = loop.clock.now()
        self.step = 0
        """The last train step that was scored."""

    def decode(self, delivery: Delivery) -> Batch:
        batch = batch_of(delivery)
        require_present(self._loop.payloads, payload_names(batch), f"batch {batch.step}")
        return batch

    def payloads_of(self, item: Batch) -> tuple[Sequence[str], Sequence[str]]:
        return (), payload_names(item)

    def loaded(self, step: int) -> None:
        self._loop.metrics.gauge("prm_version", self._methods.models.prm.version)
        self.step = step
        self._waiting_since = self._loop.clock.now()

    def newest_checkpoint(self) -> bytes:
        return self._methods.newest_checkpoint()

    def new_checkpoint(self, step: int) -> bytes:
        return self._methods.new_checkpoint(step)

    async def handle(self, step: int, item: Batch, payload: bytes) -> None:
        with batch_span("score", item):
            await self._score(step, item, payload)

    async def _score(self, step: int, item: Batch, payload: bytes) -> None:
        began = self._loop.clock.now()
        units = units_of(item)
        await self._refer(units)
        references = self._references.of(units)
        if self._methods.models.references is not None and self._references.missing(units):
            raise RunEndedError(f"train step {step}: rollouts of its batch could not be read; the log says which payload is gone")
        shares: ScoredShares = await self._loop.call("process", self._methods.process_call(payload, references))
        seconds = self._loop.clock.now() - began
        scored = ScoredBatch(
            batch=item,
            process_rewards=shares.process_rewards,
            prm_version=shares.scored.prm_version,
            metrics={**shares.scored.metrics, "seconds_prm": seconds, "wait_s_prm": began - self._waiting_since},
        )
        # Before the commit: afterwards a quick learner may take the payloads away.
        await asyncio.to_thread(self._write_samples, scored, references)
        await self._commit(scored)
        log.info("batch_scored", step=step, prm_version=scored.prm_version, seconds=seconds)
        self.step = step
        self._show(scored)
        self._references.forget(references)
        await drop_payloads(self._loop.payloads, list(references.values()), self._loop.clock)
        self._waiting_since = self._loop.clock.now()

    async def skip(self, step: int, reason: str) -> None:
        """A batch without groups stands for one that cannot be used, so that the learner's steps go on."""
        log.warning("batch_skipped", step=step, reason=reason)
        version: int = await self._loop.call("skip", str(step).encode())
        self.step = step
        await self._commit(ScoredBatch(batch=Batch(step=step, groups=()), process_rewards=(), prm_version=version, metrics={SKIPPED: 1.0}))
        self._waiting_since = self._loop.clock.now()

    async def idle(self) -> None:
        """Compute reference log-probs of what is verified and waits for its batch."""
        if self._methods.models.references is None:
            return
        until = self._loop.clock.now() + AHEAD_S
        try:
            units = self._references.missing(await self._waiting_units())
        except QueueUnavailableError:
            return
        at_once = self._methods.models.channel.world_size
        for start in range(0, len(units), at_once):
            if self._loop.clock.now() >= until:
                return
            await self._refer(units[start : start + at_once])

    async def _waiting_units(self) -> list[Unit]:
        verified: list[VerifiedRollout] = []
        async for payload in self._loop.queue.entries(VERDICTS):
            try:
                event = event_from_proto(pb.RolloutEvent.FromString(payload))
            except (DecodeError, LookupError, ValueError):
                continue  # The coordinator sets it aside.
            if isinstance(event, VerifiedRollout):
                verified.append(event)
        return complete_units(verified, group_size=self._settings.sampling.group_size)

    async def _refer(self, units: Sequence[Unit]) -> None:
        missing = self._references.missing(units)
        if missing and self._methods.models.references is not None:
            self._references.add(await self._loop.call("refer", units_to_bytes(missing)))

    async def _commit(self, scored: ScoredBatch) -> None:
        step = scored.batch.step
        output = Output(stream=SCORED, key=str(step), payload=scored_batch_to_proto(scored).SerializeToString())
        decision = Decision(mark=f"score:{step}", outputs=[output], written=scored.process_rewards)
        await settle(self._loop.queue, decision, self._loop.clock, fence=self._loop.lease.fence, payloads=self._loop.payloads)

    def _show(self, scored: ScoredBatch) -> None:
        metrics, batch = self._loop.metrics, scored.batch
        metrics.gauge("prm_version", scored.prm_version)
        metrics.count("scored_tokens_total", sum(one.rollout.trained_tokens for one in batch.rollouts + batch.baselines))
        metrics.observe("train_step_seconds", scored.metrics["seconds_prm"], phase="prm")
        metrics.count("wait_seconds_total", scored.metrics["wait_s_prm"], **{"for": "batches"})
        show_step(metrics, OF_PRM, scored.metrics)

    def _write_samples(self, scored: ScoredBatch, references: Mapping[str, str]) -> None:
        write_samples(
            self._settings.run.folder / "samples",
            self._loop.payloads,
            scored,
            self._methods.models.tokenizer,
            references,
            groups=self._settings.prm.sampled_groups,
        )
