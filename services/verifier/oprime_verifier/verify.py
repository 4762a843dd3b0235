"""The queue's side of verification: take a rollout, judge it, commit the verdict once."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from google.protobuf.message import DecodeError

from oprime.core.types import DroppedRollout, VerificationTask, VerifiedRollout
from oprime.core.verification import UNSCORED, Outcome, Verdict, VerificationRequest
from oprime.ports import VERDICTS, Delivery, LedgerMove, Metrics, Output, Queue
from oprime.runtime.errors import UnusableInputError
from oprime.wire.codec import event_to_proto, verification_task_from_proto
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

DROPPED = {verdict: "verifier_error" if verdict is Verdict.INFRA_ERROR else verdict.value.lower() for verdict in UNSCORED}
"""Why a rollout without a score is dropped, as the ledger names it."""

Judge = Callable[[VerificationRequest], Awaitable[Outcome]]


class VerifyRollouts:
    """Handler of the `rollouts` stream."""

    def __init__(self, queue: Queue, judge: Judge, metrics: Metrics) -> None:
        self._queue = queue
        self._judge = judge
        self._metrics = metrics
        self.verified = 0
        """Rollouts with a verdict from this process."""
        self.dropped = 0
        """Rollouts that this process gave up on."""

    async def __call__(self, delivery: Delivery) -> None:
        """Judge one rollout and commit. A verdict without a score drops the rollout: what is not its fault never becomes a 0.

        Raises UnusableInputError for a payload that is no VerificationTask and for an unknown verifier.
        """
        task = _decode(delivery)
        started = time.perf_counter()
        outcome = await self._judge(task.request)
        seconds = time.perf_counter() - started
        self._measure(outcome, seconds)
        new = await self._commit(delivery, task, outcome)
        log.info(
            "rollout_verified",
            rollout_id=task.rollout.rollout_id,
            verdict=outcome.verdict.value,
            score=outcome.score,
            new=new,
            seconds=seconds,
        )

    async def _commit(self, delivery: Delivery, task: VerificationTask, outcome: Outcome) -> bool:
        rollout = task.rollout
        name = rollout.rollout_id
        dropped = DROPPED.get(outcome.verdict)
        event: VerifiedRollout | DroppedRollout = (
            DroppedRollout(group_id=rollout.group_id, index=rollout.index, reason=dropped)
            if dropped
            # Thousands of test results would ride along to the learner, which has no use for them.
            else VerifiedRollout(rollout=rollout, outcome=replace(outcome, tests=()))
        )
        new = await self._queue.commit(
            f"verify:{name}",
            outputs=(Output(stream=VERDICTS, key=name, payload=event_to_proto(event).SerializeToString()),),
            moves=(LedgerMove(rollout_id=name, state=f"dropped:{dropped}"),) if dropped else (),
            consumed=(delivery,),
        )
        if new and dropped:
            self.dropped += 1
        elif new:
            self.verified += 1
        return new

    def _measure(self, outcome: Outcome, seconds: float) -> None:
        name = outcome.verifier.name
        self._metrics.count("verifications_total", verifier=name, outcome=outcome.verdict.value)
        self._metrics.observe("verification_seconds", seconds, verifier=name)
        for flag in outcome.flags:
            self._metrics.count("sandbox_violations_total", kind=flag)


def _decode(delivery: Delivery) -> VerificationTask:
    try:
        return verification_task_from_proto(pb.VerificationTask.FromString(delivery.payload))
    except (DecodeError, KeyError, ValueError) as error:
        raise UnusableInputError(
            f"entry {delivery.key} of {delivery.stream} is not a VerificationTask ({error}): its sender runs another version"
        ) from error
