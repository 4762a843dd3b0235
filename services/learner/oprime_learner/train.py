"""The learner's share of the train loop: each batch trained on by all ranks, published, committed once. Runs on rank 0.

takes      scored batches from `scored`; without a PRM, batches from `batches`
gives      weight version T, then train:T  the rollouts' last ledger state, and the step with its metrics
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from oprime.core.types import Batch, CommittedStep, ScoredBatch
from oprime.lm.checkpoints import checkpoint_root
from oprime.ports import STEPS, Delivery, LedgerMove, Output
from oprime.runtime.consume import patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.free_ports import reserve_port
from oprime.runtime.in_order import SKIPPED
from oprime.runtime.rollout_payloads import payload_names, require_present
from oprime.runtime.setting_rules import split_address
from oprime.runtime.step_gauges import OF_LEARNER, show_step
from oprime.runtime.tracing import batch_span
from oprime.runtime.train_loop import TrainLoop
from oprime.runtime.weight_transfer import offer
from oprime.wire.codec import committed_step_to_proto
from oprime_learner.config import LearnerSettings
from oprime_learner.rank_methods import RankMethods
from oprime_learner.servicer import Progress
from oprime_learner.source import source_of

log = structlog.get_logger()

CONSUMER = "learner"


class TrainPolicy:
    def __init__(self, settings: LearnerSettings, loop: TrainLoop[ScoredBatch], methods: RankMethods, progress: Progress) -> None:
        self._settings = settings
        self._loop = loop
        self._methods = methods
        self._progress = progress
        self._waiting_since = loop.clock.now()

    def decode(self, delivery: Delivery) -> ScoredBatch:
        scored = source_of(self._settings.algorithm).checked(delivery)
        require_present(self._loop.payloads, [*payload_names(scored.batch), *scored.process_rewards], f"batch {scored.batch.step}")
        return scored

    def payloads_of(self, item: ScoredBatch) -> tuple[Sequence[str], Sequence[str]]:
        return item.process_rewards, payload_names(item.batch)

    def loaded(self, step: int) -> None:
        self._progress.step = step
        self._loop.metrics.gauge("published_version", step)
        self._waiting_since = self._loop.clock.now()

    def newest_checkpoint(self) -> bytes:
        return self._methods.newest_checkpoint()

    def new_checkpoint(self, step: int) -> bytes:
        return self._methods.new_checkpoint(step)

    async def idle(self) -> None:
        pass

    async def handle(self, step: int, item: ScoredBatch, payload: bytes) -> None:
        if not item.batch.groups:
            await self.skip(step, "the PRM could not use its batch")
            return
        with batch_span("train", item.batch):
            await self._train(step, item, payload)

    async def _train(self, step: int, item: ScoredBatch, payload: bytes) -> None:
        began = self._loop.clock.now()
        metrics: dict[str, float] = await self._loop.call("process", payload)
        trained = self._loop.clock.now()
        await self._publish(step)
        seconds = {
            "seconds_learner": trained - began,
            "seconds_publish": self._loop.clock.now() - trained,
            "wait_s_learner": began - self._waiting_since,
        }
        await self._commit(step, {**item.metrics, **metrics, **seconds}, ledger_moves(item.batch))
        self._progress.trained_tokens += int(metrics["trained_tokens"])
        log.info(
            "train_step", step=step, weight_version=step, seconds=round(self._loop.clock.now() - began, 3), loss=metrics["policy_loss"]
        )
        self._show({**metrics, **seconds})
        await self._prune()
        self._waiting_since = self._loop.clock.now()

    async def skip(self, step: int, reason: str) -> None:
        """Version `step` is then the same as the one before: every step has its version, which rollouts and staleness count on."""
        log.warning("train_step_skipped", step=step, reason=reason)
        await self._publish(step)
        await self._commit(step, {SKIPPED: 1.0}, [])
        self._waiting_since = self._loop.clock.now()

    def _show(self, values: dict[str, float]) -> None:
        shown, stream = self._loop.metrics, source_of(self._settings.algorithm).stream
        shown.count("trained_tokens_total", values["trained_tokens"])
        for phase in ("learner", "publish"):
            shown.observe("train_step_seconds", values[f"seconds_{phase}"], phase=phase)
        shown.count("wait_seconds_total", values["wait_s_learner"], **{"for": stream})
        show_step(shown, OF_LEARNER, values)

    async def _publish(self, step: int) -> None:
        """Make version `step` exist.

        The queue cannot fence a store of files, so a learner that was replaced after `confirm` may still publish. That does no harm. A
        version appears whole or not at all, and the first one stays. A learner that took over repeats the same batches from the same
        checkpoint, so both have the same weights up to rounding, and the store says where they differ. Only where the run went back to an
        older checkpoint meanwhile, so that its batches are others, are they weights that never were: for the one version between them and
        the next. Rollouts of these carry the log-probs of the weights that sampled them, which is what importance weights go by, and
        training goes on from the learner's own weights. What counts, the commit, is fenced.
        """
        await self._loop.lease.confirm()
        await self._loop.call("publish", str(step).encode())
        self._loop.metrics.gauge("published_version", step)
        await self._send(step)

    async def _send(self, step: int) -> None:
        """Besides the store, where generators take versions directly."""
        if self._methods.models.sender is None:
            return
        host, _ = split_address(self._settings.endpoints.learner, "endpoints.learner")
        with reserve_port(host) as keeper:
            port: int = keeper.getsockname()[1]
        tensors = self._methods.published
        transfer = await patiently(lambda: offer(self._loop.queue, version=step, host=host, port=port, tensors=tensors), self._loop.clock)
        if transfer is not None:
            await self._loop.call("send", transfer.to_json())

    async def _commit(self, step: int, metrics: dict[str, float], moves: Sequence[LedgerMove]) -> None:
        committed = CommittedStep(step=step, weight_version=step, metrics=metrics)
        output = Output(stream=STEPS, key=str(step), payload=committed_step_to_proto(committed).SerializeToString())
        decision = Decision(mark=f"train:{step}", outputs=[output], moves=moves)
        await settle(self._loop.queue, decision, self._loop.clock, fence=self._loop.lease.fence)
        self._progress.step = step

    async def _prune(self) -> None:
        """Remove weight versions that no checkpoint, replica or live rollout needs."""
        settings = self._settings
        replicas = await patiently(lambda: self._loop.queue.values("generator/"), self._loop.clock)
        in_use = [int(json.loads(report)["weight_version"]) for report in replicas.values()]
        keep = versions_to_keep(checkpoint_root(settings.run.folder), in_use)
        newest = max(settings.store.keep_versions, settings.staleness.max_staleness + 2)
        await asyncio.to_thread(self._methods.models.store.prune, keep, newest)


def ledger_moves(batch: Batch) -> list[LedgerMove]:
    """Each rollout was trained on, and each greedy baseline compared with, at the batch's step."""
    trained = [LedgerMove(rollout_id=one.rollout.rollout_id, state=f"trained:{batch.step}") for one in batch.rollouts]
    return trained + [LedgerMove(rollout_id=one.rollout.rollout_id, state=f"baseline:{batch.step}") for one in batch.baselines]


def versions_to_keep(checkpoints: Path, in_use: Iterable[int]) -> set[int]:
    """Version 0, the versions of checkpoints, and those that replicas sample with."""
    saved = {int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-*")}
    return {0} | saved | set(in_use)
