"""The queue's side of verification: take a rollout, judge it, commit the verdict once.

takes      rollouts, two per worker, a few that are being read or committed, and as many besides as wait for a verifier that is out
waits for  the sandbox to be healthy, the text and what the verifier needs of the task, the judge
gives      verify:G:I  verdict and score; or that the rollout was dropped, whose payloads end then
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from oprime.core.types import DroppedRollout, RolloutRecord, VerificationTask, VerifiedRollout
from oprime.core.verification import UNSCORED, Outcome, Verdict, VerificationRequest
from oprime.ports import LIVE, VERDICTS, Clock, Committed, Delivery, LedgerMove, Metrics, Output, Payloads, Queue, Span
from oprime.runtime.consume import patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.entries import read_entry
from oprime.runtime.errors import UnusableInputError
from oprime.runtime.releases import drop_payloads
from oprime.runtime.tracing import span
from oprime.tasks.actions import trace_actions
from oprime.wire.codec import event_to_proto, verification_task_from_proto
from oprime_proto.v1 import common_pb2 as pb
from oprime_verifier.materials import Materials, PayloadReads

log = structlog.get_logger()

DROPPED = {verdict: "verifier_error" if verdict is Verdict.INFRA_ERROR else verdict.value.lower() for verdict in UNSCORED}
"""Why a rollout without a score is dropped, as the ledger names it."""

STOP_WAIT_S = 2.0
"""Most seconds that a stop waits for the answer of a commit."""

Judge = Callable[[VerificationRequest], Awaitable[Outcome]]


class VerifyRollouts:
    """Handler of the `rollouts` stream."""

    def __init__(self, queue: Queue, payloads: Payloads, judge: Judge, metrics: Metrics, clock: Clock, stopping: asyncio.Event) -> None:
        self._queue = queue
        self._payloads = payloads
        self._reads = PayloadReads(payloads)
        self._materials = Materials(self._reads)
        self._judge = judge
        self._metrics = metrics
        self._clock = clock
        self._stopping = stopping
        self.verified = 0
        """Rollouts with a verdict from this process."""
        self.dropped = 0
        """Rollouts that this process gave up on."""
        for kind in ("hack_suspected", "violation"):
            metrics.count("sandbox_violations_total", 0, kind=kind)

    async def __call__(self, delivery: Delivery) -> None:
        """Judge one rollout and commit. A verdict without a score drops the rollout: what is not its fault never becomes a 0.

        Raises UnusableInputError for an entry that is no VerificationTask, for payloads that are gone and for an unknown verifier.
        """
        task = read_entry(delivery, pb.VerificationTask, verification_task_from_proto)
        with span("verify", kind="consumer", parent=task.trace, rollout_id=task.rollout.rollout_id, attempt=delivery.attempt) as traced:
            await self._verify(delivery, task, traced)

    async def _verify(self, delivery: Delivery, task: VerificationTask, traced: Span) -> None:
        request = await self._request(delivery, task)
        if request is None:
            return
        started = time.perf_counter()
        outcome = await self._judge(request)
        # Without the wait for a free worker, where that is known.
        seconds = outcome.timings.get("judge", time.perf_counter() - started)
        if self._stopping.is_set():
            # A signal to all processes may have cut it short, and what it then says is no verdict. The entry goes to another.
            await asyncio.Event().wait()
        self._measure(outcome, seconds)
        dropped = DROPPED.get(outcome.verdict)
        verified = _verified(task.rollout, request.response, outcome, traced.context)
        committed = await _to_its_end(settle(self._queue, _decision(delivery, verified, dropped), self._clock))
        if committed and dropped:
            self.dropped += 1
            await drop_payloads(self._payloads, task.rollout.payloads, self._clock)
        elif committed:
            self.verified += 1
        traced.note(verifier=request.kind, verdict=outcome.verdict.value, **({} if outcome.score is None else {"score": outcome.score}))
        (log.warning if dropped else log.debug)(
            "rollout_dropped" if dropped else "rollout_verified",
            group_id=task.rollout.group_id,
            rollout_id=task.rollout.rollout_id,
            verifier=request.kind,
            verdict=outcome.verdict.value,
            score=outcome.score,
            reason=outcome.reason,
            counted=committed.value,
            seconds=seconds,
            weight_version=task.rollout.newest_weight_version,
        )

    async def _request(self, delivery: Delivery, task: VerificationTask) -> VerificationRequest | None:
        """What to ask the verifier; None, with the entry acknowledged, for a rollout that ended while its entry was on the way."""
        name = task.rollout.rollout_id
        try:
            request, text = await patiently(lambda: self._read(task), self._clock)
        except UnusableInputError:
            states = await patiently(lambda: self._queue.ledger_states([name]), self._clock)
            if states.get(name) == LIVE:
                raise
            await patiently(lambda: self._queue.acknowledge([delivery]), self._clock)
            log.debug("rollout_too_late", rollout_id=name, reason="it had ended")
            return None
        return replace(request, response=text, request_id=name)

    async def _read(self, task: VerificationTask) -> tuple[VerificationRequest, str]:
        request, text = await asyncio.gather(self._materials.read(task.material), self._reads.read(task.rollout.text))
        if text is None:
            raise UnusableInputError(f"payload {task.rollout.text} (the text of rollout {task.rollout.rollout_id}) is gone from the store")
        return request, text.decode("utf-8", "surrogatepass")

    def _measure(self, outcome: Outcome, seconds: float) -> None:
        name = outcome.verifier.name
        self._metrics.count("verifications_total", verifier=name, outcome=outcome.verdict.value)
        self._metrics.observe("verification_seconds", seconds, verifier=name)
        for flag in () if outcome.score is None else outcome.flags:
            self._metrics.count("sandbox_violations_total", kind=flag)


def _verified(rollout: RolloutRecord, response: str, outcome: Outcome, trace: str) -> VerifiedRollout:
    acted = trace_actions(response)
    return VerifiedRollout(
        rollout=rollout, outcome=outcome.brief, trace=trace, actions=len(acted.actions), keeps_action_form=acted.keeps_form
    )


def _decision(delivery: Delivery, verified: VerifiedRollout, dropped: str | None) -> Decision:
    rollout, name = verified.rollout, verified.rollout.rollout_id
    event = DroppedRollout(group_id=rollout.group_id, index=rollout.index, reason=dropped) if dropped else verified
    return Decision(
        mark=f"verify:{name}",
        outputs=(Output(stream=VERDICTS, key=name, payload=event_to_proto(event).SerializeToString()),),
        moves=(LedgerMove(rollout_id=name, state=f"dropped:{dropped}"),) if dropped else (),
        consumed=(delivery,),
    )


async def _to_its_end(commit: Coroutine[Any, Any, Committed]) -> Committed:
    """The answer of a commit that has begun: a stop waits for it a moment, so that a finished verdict is not judged again."""
    task = asyncio.create_task(commit)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=STOP_WAIT_S)
        if not task.done():
            task.cancel()
            raise
        return task.result()
