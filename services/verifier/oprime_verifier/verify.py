"""The queue's side of verification: take a rollout, judge it, commit the verdict once."""

from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from oprime.core.types import DroppedRollout, Outcome, OutcomeStatus, VerificationTask, VerifiedRollout
from oprime.ports import VERDICTS, Delivery, LedgerMove, Metrics, Output, Queue
from oprime.runtime.errors import UnusableInputError
from oprime.wire.codec import event_to_proto, verification_task_from_proto
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

DROPPED = "verifier_error"


class Judge(Protocol):
    async def judge(self, verifier: str, response: str, ground_truth: str, data_source: str = "") -> tuple[Outcome, float]: ...


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
        """Judge one rollout and commit. An ERROR drops the rollout: our fault never becomes a score of 0.

        Raises UnusableInputError for a payload that is no VerificationTask and for an unknown verifier.
        """
        task = _decode(delivery)
        rollout = task.rollout
        outcome, seconds = await self._judge.judge(task.verifier, rollout.text, task.ground_truth, task.data_source)
        self._measure(outcome, seconds)
        new = await self._commit(delivery, task, outcome)
        log.info(
            "rollout_verified", rollout_id=rollout.rollout_id, status=outcome.status.value, score=outcome.score, new=new, seconds=seconds
        )

    async def _commit(self, delivery: Delivery, task: VerificationTask, outcome: Outcome) -> bool:
        rollout = task.rollout
        name = rollout.rollout_id
        failed = outcome.status is OutcomeStatus.ERROR
        event: VerifiedRollout | DroppedRollout = (
            DroppedRollout(group_id=rollout.group_id, index=rollout.index, reason=DROPPED)
            if failed
            else VerifiedRollout(rollout=rollout, outcome=outcome)
        )
        new = await self._queue.commit(
            f"verify:{name}",
            outputs=(Output(stream=VERDICTS, key=name, payload=event_to_proto(event).SerializeToString()),),
            moves=(LedgerMove(rollout_id=name, state=f"dropped:{DROPPED}"),) if failed else (),
            consumed=(delivery,),
        )
        if new and failed:
            self.dropped += 1
        elif new:
            self.verified += 1
        return new

    def _measure(self, outcome: Outcome, seconds: float) -> None:
        self._metrics.count("verifications_total", verifier=outcome.verifier, outcome=outcome.status.value)
        self._metrics.observe("verification_seconds", seconds, verifier=outcome.verifier)


def _decode(delivery: Delivery) -> VerificationTask:
    try:
        return verification_task_from_proto(pb.VerificationTask.FromString(delivery.payload))
    except (DecodeError, KeyError, ValueError) as error:
        raise UnusableInputError(
            f"entry {delivery.key} of {delivery.stream} is not a VerificationTask ({error}): its sender runs another version"
        ) from error
