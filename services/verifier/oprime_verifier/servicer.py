"""VerifierService: RPC to the dispatcher and back."""

import asyncio
from collections.abc import AsyncIterator

from oprime.core.verification import VerificationRequest
from oprime.runtime.errors import UnusableInputError
from oprime.wire.structs import struct_of
from oprime.wire.verification import outcome_to_proto, request_from_proto
from oprime_proto.v1 import verification_pb2, verifier_pb2_grpc
from oprime_proto.v1 import verifier_pb2 as pb
from oprime_verifier.sandbox_health import SandboxHealth
from oprime_verifier.working.dispatch import MAX_RESPONSE_CHARS, Dispatcher
from oprime_verifier.working.stream import as_they_finish


class VerifierServicer(verifier_pb2_grpc.VerifierServiceServicer):
    """Deadlines of callers hold by themselves: gRPC cancels the method, and the dispatcher takes no new item for it."""

    def __init__(self, dispatcher: Dispatcher, health: SandboxHealth, *, concurrency: int, deadline_s: float) -> None:
        self._dispatcher = dispatcher
        self._health = health
        self._concurrency = concurrency
        self._deadline_s = deadline_s

    async def Verify(self, request: verification_pb2.VerifyRequest, context: object) -> verification_pb2.VerifyResponse:
        return await self._verify(request)

    async def VerifyBatch(self, request: pb.VerifyBatchRequest, context: object) -> pb.VerifyBatchResponse:
        tasks = [asyncio.create_task(self._verify(item)) for item in request.requests]
        try:
            return pb.VerifyBatchResponse(responses=await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def VerifyStream(
        self, request_iterator: AsyncIterator[verification_pb2.VerifyRequest], context: object
    ) -> AsyncIterator[verification_pb2.VerifyResponse]:
        async for response in as_they_finish(self._verify, request_iterator, at_once=2 * self._concurrency):
            yield response

    async def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:
        return pb.DescribeResponse(
            verifiers=[
                pb.VerifierDescription(
                    name=known.name,
                    version=known.version,
                    description=known.description,
                    options_schema=struct_of(known.options_schema),
                    problem=known.problem,
                )
                for known in self._dispatcher.describe()
            ],
            concurrency=self._concurrency,
            deadline_s=self._deadline_s,
            max_response_chars=MAX_RESPONSE_CHARS,
        )

    async def Health(self, request: pb.VerifierServiceHealthRequest, context: object) -> pb.VerifierServiceHealthResponse:
        health = self._health.to_proto()
        health.held_rollouts, health.outage = self._dispatcher.held, self._dispatcher.outage
        return health

    async def _verify(self, request: verification_pb2.VerifyRequest) -> verification_pb2.VerifyResponse:
        self._health.require()
        return outcome_to_proto(await self._dispatcher.verify(_decoded(request)), request.request_id)


def _decoded(request: verification_pb2.VerifyRequest) -> VerificationRequest:
    try:
        return request_from_proto(request)
    except ValueError as error:
        raise UnusableInputError(f"the options cannot be used: {error}") from error
