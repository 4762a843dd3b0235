"""VerifierService: RPC to the worker pool and back."""

import asyncio

import grpc

from oprime.wire.codec import outcome_to_proto
from oprime_proto.v1 import verifier_pb2 as pb
from oprime_proto.v1 import verifier_pb2_grpc
from oprime_verifier.worker_pool import WorkerPool


class VerifierServicer(verifier_pb2_grpc.VerifierServiceServicer):
    """Deadlines of callers hold by themselves: gRPC cancels the method, and the pool takes no new item for it."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def Verify(self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext) -> pb.VerifyResponse:
        return await self._verify(request)

    async def VerifyBatch(self, request: pb.VerifyBatchRequest, context: grpc.aio.ServicerContext) -> pb.VerifyBatchResponse:
        tasks = [asyncio.create_task(self._verify(item)) for item in request.requests]
        try:
            return pb.VerifyBatchResponse(responses=await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def Describe(self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext) -> pb.DescribeResponse:
        return pb.DescribeResponse(verifiers=[pb.VerifierDescription(**known) for known in self._pool.verifiers])

    async def _verify(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        outcome, seconds = await self._pool.judge(request.verifier, request.response, request.ground_truth, request.data_source)
        return pb.VerifyResponse(outcome=outcome_to_proto(outcome), seconds=seconds)
