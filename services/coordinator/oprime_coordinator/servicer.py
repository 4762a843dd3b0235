"""CoordinatorService over gRPC."""

from oprime_coordinator.coordinate import Coordinate, RunState
from oprime_proto.v1 import coordinator_pb2 as pb
from oprime_proto.v1 import coordinator_pb2_grpc

STATES = {
    RunState.STARTING: pb.RUN_STATE_STARTING,
    RunState.TRAINING: pb.RUN_STATE_TRAINING,
    RunState.EVALUATING: pb.RUN_STATE_EVALUATING,
    RunState.FINISHED: pb.RUN_STATE_FINISHED,
    RunState.SERVING: pb.RUN_STATE_SERVING,
}


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Answers from memory: what a run is doing must be known also while its queue does not answer."""

    def __init__(self, coordinate: Coordinate, *, total_steps: int) -> None:
        self._coordinate = coordinate
        self._total_steps = total_steps

    async def Status(self, request: pb.CoordinatorServiceStatusRequest, context: object) -> pb.CoordinatorServiceStatusResponse:
        coordinate, loop, seen = self._coordinate, self._coordinate.loop, self._coordinate.seen
        return pb.CoordinatorServiceStatusResponse(
            state=STATES[coordinate.run_state],
            step=loop.state.committed_step,
            total_steps=self._total_steps,
            cut_batches=loop.state.next_step - 1,
            live_groups=len(loop.open),
            ready_groups=len(loop.ready),
            acceptance_rate=loop.statistics.acceptance_rate,
            ledger=seen.ledger,
            queues=[
                pb.QueueDepth(stream=depth.stream, waiting=depth.waiting, pending=depth.pending, oldest_seconds=depth.oldest_s)
                for depth in seen.depths
            ],
            metrics=coordinate.newest_metrics,
            bottleneck=seen.bottleneck,
            stalled=seen.stalled,
        )
