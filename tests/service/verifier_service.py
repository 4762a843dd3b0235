"""A verifier service and its queue, for tests: rollouts go in, verdicts come out."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import DroppedRollout, VerificationTask, VerifiedRollout
from oprime.core.verification import VerificationRequest
from oprime.ports import LIVE, ROLLOUTS, VERDICTS, LedgerMove, Output, Payloads, Queue
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.rollout_payloads import material_of, material_owner
from oprime.wire.codec import event_from_proto, verification_task_to_proto
from oprime_proto.v1 import common_pb2
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub, add_VerifierServiceServicer_to_server
from oprime_verifier.offer import Offer
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.servicer import VerifierServicer
from oprime_verifier.verify import Judge, VerifyRollouts
from rollouts import STORE, single_turn, written

WAIT_S = 60.0
SERVICE = "oprime_proto.v1.VerifierService"


class NoMetrics:
    """Metrics that nobody reads."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


def servicer_of(offer: Offer, *, strict: bool = False) -> VerifierServicer:
    return VerifierServicer(offer.dispatcher, SandboxHealth(offer.pool, NoMetrics(), strict=strict), concurrency=2, deadline_s=WAIT_S)


@asynccontextmanager
async def serving(offer: Offer) -> AsyncIterator[VerifierServiceStub]:
    server = GrpcServer("127.0.0.1:0")
    server.add(add_VerifierServiceServicer_to_server, servicer_of(offer), SERVICE)
    port = await server.start()
    await server.set_serving(True)
    channel = connect(f"127.0.0.1:{port}")
    try:
        yield VerifierServiceStub(channel)
    finally:
        await channel.close()
        await server.stop(0)


def posed(verifier: str = "chain", ground_truth: str = "8") -> str:
    """The name of what a verifier needs of a task, as the coordinator writes it: once for all siblings."""
    request = VerificationRequest(kind=verifier, response="", golds=(ground_truth,), data_source="chain")
    return STORE.put(material_owner(7), material_of(request))


def task(index: int, text: str, verifier: str = "chain", ground_truth: str = "8") -> VerificationTask:
    rollout = single_turn(7, index, [1, 2], [3, 4, 5], logprobs=[-0.5, -0.25, -0.125], seed=index, text=text)
    return VerificationTask(rollout=written(rollout), material=posed(verifier, ground_truth))


async def send(queue: MemoryQueue, tasks: Sequence[VerificationTask]) -> None:
    for item in tasks:
        name = item.rollout.rollout_id
        await queue.commit(
            f"generate:{name}",
            outputs=(Output(stream=ROLLOUTS, key=name, payload=verification_task_to_proto(item).SerializeToString()),),
            moves=(LedgerMove(rollout_id=name, state=LIVE),),
        )


async def events(queue: MemoryQueue, count: int) -> dict[str, VerifiedRollout | DroppedRollout]:
    found: dict[str, VerifiedRollout | DroppedRollout] = {}
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            for delivery in await queue.receive(VERDICTS, "coordinator", most=count, wait_s=0.1):
                assert delivery.key not in found
                found[delivery.key] = event_from_proto(common_pb2.RolloutEvent.FromString(delivery.payload))
                await queue.acknowledge([delivery])
    return found


def handler_of(queue: Queue, judge: Judge, stopping: asyncio.Event | None = None, payloads: Payloads = STORE) -> VerifyRollouts:
    return VerifyRollouts(queue, payloads, judge, NoMetrics(), SystemClock(), stopping or asyncio.Event())
