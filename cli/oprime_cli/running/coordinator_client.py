"""What the coordinator of a running run says about it."""

import grpc

from oprime.runtime.settings import TlsSection
from oprime_cli.running.health import open_channel
from oprime_proto.v1 import coordinator_pb2 as pb
from oprime_proto.v1.coordinator_pb2_grpc import CoordinatorServiceStub

TIMEOUT_S = 5.0
STATES = {
    pb.RUN_STATE_UNSPECIFIED: "unknown",
    pb.RUN_STATE_STARTING: "starting",
    pb.RUN_STATE_TRAINING: "training",
    pb.RUN_STATE_EVALUATING: "evaluating",
    pb.RUN_STATE_FINISHED: "finished",
    pb.RUN_STATE_SERVING: "serving",
}

Status = pb.CoordinatorServiceStatusResponse


class CoordinatorClient:
    """Asks one coordinator for its status."""

    def __init__(self, address: str, tls: TlsSection | None = None) -> None:
        self._channel = open_channel(address, tls)
        self._stub = CoordinatorServiceStub(self._channel)

    def status(self) -> Status | None:
        """None while the coordinator does not answer."""
        try:
            return self._stub.Status(pb.CoordinatorServiceStatusRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError:
            return None

    def close(self) -> None:
        self._channel.close()


def state_name(status: Status) -> str:
    return STATES.get(status.state, "unknown")


def is_finished(status: Status | None) -> bool:
    return status is not None and status.state == pb.RUN_STATE_FINISHED


def is_emptied(status: Status) -> bool:
    """Whether the ledger is empty although the coordinator has issued groups: Redis lost the run."""
    return not status.ledger.get("issued", 0) and bool(status.live_groups or status.ready_groups or status.cut_batches)
