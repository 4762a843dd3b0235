"""What every gRPC server of oprime does, whatever its service."""

from collections.abc import AsyncIterator

import grpc
import pytest

from oprime.runtime.errors import NotReadyError, OprimeError, SettingsError, TooManyError, UnusableInputError, WeightVersionMissingError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime_proto.v1 import learner_pb2 as pb
from oprime_proto.v1 import learner_pb2_grpc


class Failing(learner_pb2_grpc.LearnerServiceServicer):
    """Fails as it is told, and otherwise answers."""

    error: Exception | None = None

    async def Status(self, request: pb.LearnerServiceStatusRequest, context: object) -> pb.LearnerServiceStatusResponse:
        if self.error is not None:
            raise self.error
        return pb.LearnerServiceStatusResponse(step=7)


@pytest.fixture
async def servicer() -> Failing:
    return Failing()


@pytest.fixture
async def stub(servicer: Failing) -> AsyncIterator[learner_pb2_grpc.LearnerServiceStub]:
    server = GrpcServer("127.0.0.1:0")
    server.add(learner_pb2_grpc.add_LearnerServiceServicer_to_server, servicer, "oprime_proto.v1.LearnerService")
    port = await server.start()
    async with connect(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield learner_pb2_grpc.LearnerServiceStub(channel)
    await server.stop(0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnusableInputError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (TooManyError("x"), grpc.StatusCode.OUT_OF_RANGE),
        (WeightVersionMissingError("x"), grpc.StatusCode.NOT_FOUND),
        (SettingsError("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (OprimeError("x"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_named_error_has_its_code_and_message(
    servicer: Failing, stub: learner_pb2_grpc.LearnerServiceStub, error: Exception, code: grpc.StatusCode
) -> None:
    servicer.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Status(pb.LearnerServiceStatusRequest())
    assert (caught.value.code(), caught.value.details()) == (code, "x")


async def test_a_service_that_is_not_ready_is_asked_again(servicer: Failing, stub: learner_pb2_grpc.LearnerServiceStub) -> None:
    servicer.error = NotReadyError("not yet")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Status(pb.LearnerServiceStatusRequest(), timeout=0.5)
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    servicer.error = None
    assert (await stub.Status(pb.LearnerServiceStatusRequest())).step == 7


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_gets_its_request_id_back(servicer: Failing, stub: learner_pb2_grpc.LearnerServiceStub, fails: bool) -> None:
    servicer.error = UnusableInputError("x") if fails else None
    call = stub.Status(pb.LearnerServiceStatusRequest(), metadata=(("x-request-id", "mine"),))
    metadata = await call.trailing_metadata()
    assert dict(metadata or ())["x-request-id"] == "mine"


async def test_a_taken_port_is_a_settings_error_that_names_it() -> None:
    first = GrpcServer("127.0.0.1:0")
    port = await first.start()
    second = GrpcServer(f"127.0.0.1:{port}")
    with pytest.raises(SettingsError, match=str(port)):
        await second.start()
    await second.stop(0)
    await first.stop(0)
