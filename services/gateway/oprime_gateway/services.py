"""Calls to the other services, with a deadline, and their failures by name."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import grpc
from grpc.aio import UnaryUnaryMultiCallable as Method
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oprime.runtime.grpc_client import connect
from oprime.runtime.settings import TlsSection
from oprime_gateway.problems import ServiceFailedError
from oprime_proto.v1 import coordinator_pb2, prm_pb2, verifier_pb2
from oprime_proto.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from oprime_proto.v1.prm_pb2_grpc import PrmServiceStub
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub

STATUS_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 2.0

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


# What the generated stubs do not say: the messages of each method.


class PrmMethods(Protocol):
    Score: Method[prm_pb2.ScoreRequest, prm_pb2.ScoreResponse]
    Status: Method[prm_pb2.PrmServiceStatusRequest, prm_pb2.PrmServiceStatusResponse]


class VerifierMethods(Protocol):
    VerifyBatch: Method[verifier_pb2.VerifyBatchRequest, verifier_pb2.VerifyBatchResponse]
    Describe: Method[verifier_pb2.DescribeRequest, verifier_pb2.DescribeResponse]
    Health: Method[verifier_pb2.VerifierServiceHealthRequest, verifier_pb2.VerifierServiceHealthResponse]


class CoordinatorMethods(Protocol):
    Status: Method[coordinator_pb2.CoordinatorServiceStatusRequest, coordinator_pb2.CoordinatorServiceStatusResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Channels to the services of the run. Make with `open`, inside an event loop."""

    channels: Mapping[str, grpc.aio.Channel]
    timeout_s: float

    @classmethod
    def open(cls, addresses: Mapping[str, str], *, timeout_s: float, tls: TlsSection | None = None) -> Self:
        return cls(channels={name: connect(address, tls) for name, address in addresses.items()}, timeout_s=timeout_s)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))

    @property
    def prm(self) -> PrmMethods:
        return PrmServiceStub(self.channels["prm"])

    @property
    def verifier(self) -> VerifierMethods:
        return VerifierServiceStub(self.channels["verifier"])

    @property
    def coordinator(self) -> CoordinatorMethods:
        return CoordinatorServiceStub(self.channels["coordinator"])

    async def ready(self) -> dict[str, bool]:
        """What each service's own health check says; one that does not answer is not ready."""
        answers = await asyncio.gather(*(_is_serving(channel) for channel in self.channels.values()))
        return dict(zip(self.channels, answers, strict=True))


async def call(service: str, method: Method[RequestT, AnswerT], request: RequestT, timeout_s: float) -> AnswerT:
    """One call. Raises ServiceFailedError, which says which service failed and how."""
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise ServiceFailedError(service, error.code(), error.details() or "") from error


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
