"""LearnerService over gRPC."""

from dataclasses import dataclass, field

from oprime.runtime.heartbeat import BusyMeter
from oprime_proto.v1 import learner_pb2 as pb
from oprime_proto.v1 import learner_pb2_grpc


@dataclass(slots=True)
class Progress:
    """What the learner has done so far."""

    step: int = 0
    trained_tokens: int = 0
    meter: BusyMeter = field(default_factory=BusyMeter)


class LearnerServicer(learner_pb2_grpc.LearnerServiceServicer):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    async def Status(self, request: pb.LearnerServiceStatusRequest, context: object) -> pb.LearnerServiceStatusResponse:
        progress = self._progress
        return pb.LearnerServiceStatusResponse(
            step=progress.step, weight_version=progress.step, trained_tokens=progress.trained_tokens, **progress.meter.read()
        )
