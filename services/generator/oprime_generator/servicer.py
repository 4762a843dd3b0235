"""GeneratorService: RPC to handlers and back."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

from oprime.core.types import Rollout
from oprime.wire.codec import floats_to_bytes, ids_to_bytes, messages_from_proto, rollout_to_proto, sampling_from_proto
from oprime_generator.follow import WeightFollower
from oprime_generator.generate import GenerateRollouts, sample_requests
from oprime_generator.sampler import SampleRequest, TokenDelta
from oprime_proto.v1 import generator_pb2 as pb
from oprime_proto.v1 import generator_pb2_grpc


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """Callers' deadlines hold by themselves: gRPC cancels the method, and its responses are given up."""

    def __init__(self, rollouts: GenerateRollouts, follower: WeightFollower, *, generator_id: str) -> None:
        self._rollouts = rollouts
        self._follower = follower
        self._generator_id = generator_id

    async def Prepare(self, request: pb.PrepareRequest, context: object) -> pb.PrepareResponse:
        started = time.monotonic()
        prepared = await self._follower.prepare(request.weight_version)
        return pb.PrepareResponse(weight_version=prepared.version, bytes=prepared.bytes, seconds=time.monotonic() - started)

    async def Activate(self, request: pb.ActivateRequest, context: object) -> pb.ActivateResponse:
        started = time.monotonic()
        await self._follower.activate(await self._follower.prepare(request.weight_version))
        return pb.ActivateResponse(weight_version=self._rollouts.sampler.weight_version, seconds=time.monotonic() - started)

    async def Generate(self, request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        rollouts = await self._rollouts.sample_all(await self._requests(request))
        return pb.GenerateResponse(rollouts=[rollout_to_proto(rollout) for rollout in rollouts])

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: object) -> AsyncIterator[pb.GenerateStreamResponse]:
        requests = await self._requests(request)
        parts: asyncio.Queue[pb.GenerateStreamResponse | Exception] = asyncio.Queue()
        tasks = [asyncio.create_task(self._stream_one(one, index, parts)) for index, one in enumerate(requests)]
        try:
            left = len(tasks)
            while left:
                part = await parts.get()
                if isinstance(part, Exception):
                    raise part
                left -= part.HasField("finished")
                yield part
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def Stats(self, request: pb.StatsRequest, context: object) -> pb.StatsResponse:
        response = pb.StatsResponse(generator_id=self._generator_id)
        for name, value in status(self._rollouts, self._follower).items():
            setattr(response, name, value)
        return response

    async def _requests(self, request: pb.GenerateRequest | pb.GenerateStreamRequest) -> list[SampleRequest]:
        sampling = sampling_from_proto(request.sampling)
        prompt_ids = self._rollouts.prompt_ids(messages_from_proto(list(request.messages)), sampling)
        await self._follower.wait_for(request.min_weight_version)
        return sample_requests(f"rpc-{uuid.uuid4().hex}", prompt_ids, sampling, list(request.seeds))

    async def _stream_one(self, request: SampleRequest, index: int, parts: "asyncio.Queue[pb.GenerateStreamResponse | Exception]") -> None:
        try:
            async for part in self._rollouts.stream(request, index=index):
                parts.put_nowait(_stream_part(part, index))
        except Exception as error:  # noqa: BLE001 - raised again by the rpc
            parts.put_nowait(error)


def _stream_part(part: TokenDelta | Rollout, index: int) -> pb.GenerateStreamResponse:
    if isinstance(part, Rollout):
        return pb.GenerateStreamResponse(finished=rollout_to_proto(part))
    return pb.GenerateStreamResponse(
        delta=pb.ResponseDelta(
            index=index,
            response_ids=ids_to_bytes(part.response_ids),
            text=part.text,
            behaviour_logprobs=floats_to_bytes(part.behaviour_logprobs),
        )
    )


def status(rollouts: GenerateRollouts, follower: WeightFollower) -> dict[str, object]:
    """What Stats and the heartbeat say."""
    progress = rollouts.progress
    return {
        "weight_version": rollouts.sampler.weight_version,
        "running_rollouts": progress.running_rollouts,
        "finished_rollouts": progress.finished_rollouts,
        "generated_tokens": progress.generated_tokens,
        "follow_error": follower.error,
        "backend": rollouts.sampler.backend,
        **progress.meter.read(),
    }
