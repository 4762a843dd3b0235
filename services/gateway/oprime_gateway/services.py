"""Calls to the other services, with a deadline, and their failures by name."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

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
REWARDS_ALONE = "this gateway answers with process rewards alone (gateway.rewards_only, as in `oprime serve prm`)"
REWARDS_ONLY = f"{REWARDS_ALONE}: ask the gateway of a run, which `oprime up RUN` starts"
UNREACHABLE = "Failed to connect to remote host"
"""What gRPC says, among its own words for each address that it tried, where nobody listens."""
SCORER = "scorer"
"""How the names of replicas begin that only score."""

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")
RequestIn = TypeVar("RequestIn", contravariant=True)
AnswerOut = TypeVar("AnswerOut", covariant=True)


class Calls(Protocol[RequestIn, AnswerOut]):
    """A method of a service."""

    def __call__(self, request: RequestIn, /, *, timeout: float) -> Awaitable[AnswerOut]: ...


# What the generated stubs do not say: the messages of each method.


class PrmMethods(Protocol):
    @property
    def Score(self) -> Calls[prm_pb2.ScoreRequest, prm_pb2.ScoreResponse]: ...  # noqa: N802
    @property
    def Status(self) -> Calls[prm_pb2.PrmServiceStatusRequest, prm_pb2.PrmServiceStatusResponse]: ...  # noqa: N802


class VerifierMethods(Protocol):
    VerifyBatch: Method[verifier_pb2.VerifyBatchRequest, verifier_pb2.VerifyBatchResponse]
    Describe: Method[verifier_pb2.DescribeRequest, verifier_pb2.DescribeResponse]
    Health: Method[verifier_pb2.VerifierServiceHealthRequest, verifier_pb2.VerifierServiceHealthResponse]


class CoordinatorMethods(Protocol):
    Status: Method[coordinator_pb2.CoordinatorServiceStatusRequest, coordinator_pb2.CoordinatorServiceStatusResponse]


class LeastBusy(Generic[RequestT, AnswerT]):
    """One method of replicas that answer alike: each call goes to the one with the fewest under way, and on to the next if it is away."""

    def __init__(self, methods: Sequence[Calls[RequestT, AnswerT]]) -> None:
        self._methods = methods
        self._under_way = [0] * len(methods)

    async def __call__(self, request: RequestT, *, timeout: float) -> AnswerT:  # noqa: ASYNC109 - gRPC's own
        order = sorted(range(len(self._methods)), key=lambda number: self._under_way[number])
        for number in order[:-1]:
            try:
                return await self._ask(number, request, timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        return await self._ask(order[-1], request, timeout)

    async def _ask(self, number: int, request: RequestT, timeout: float) -> AnswerT:  # noqa: ASYNC109
        self._under_way[number] += 1
        try:
            return await self._methods[number](request, timeout=timeout)
        finally:
            self._under_way[number] -= 1


@dataclass(frozen=True, slots=True)
class Scorers:
    """`PrmMethods` of all replicas that only score."""

    Score: LeastBusy[prm_pb2.ScoreRequest, prm_pb2.ScoreResponse]
    Status: LeastBusy[prm_pb2.PrmServiceStatusRequest, prm_pb2.PrmServiceStatusResponse]

    @classmethod
    def of(cls, channels: Sequence[grpc.aio.Channel]) -> Self:
        stubs: list[PrmMethods] = [PrmServiceStub(channel) for channel in channels]
        return cls(LeastBusy([stub.Score for stub in stubs]), LeastBusy([stub.Status for stub in stubs]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Channels to the services of the run. Make with `open`, inside an event loop."""

    channels: Mapping[str, grpc.aio.Channel]
    timeout_s: float
    scorers: PrmMethods | None = None
    """Whoever scores in place of the PRM of a run."""

    @classmethod
    def open(cls, addresses: Mapping[str, str], *, timeout_s: float, tls: TlsSection | None = None) -> Self:
        channels = {name: connect(address, tls) for name, address in addresses.items()}
        scorers = [channel for name, channel in channels.items() if name.startswith(SCORER)]
        return cls(channels=channels, timeout_s=timeout_s, scorers=Scorers.of(scorers) if scorers else None)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))

    @property
    def prm(self) -> PrmMethods:
        """Whoever scores: a scorer of this process or the replicas that do nothing else, if there are any; else the PRM."""
        return self.scorers or PrmServiceStub(self._channel("prm"))

    @property
    def verifier(self) -> VerifierMethods:
        return VerifierServiceStub(self._channel("verifier"))

    @property
    def has_verifier(self) -> bool:
        """Whether this gateway has a verifier behind it, up or not."""
        return "verifier" in self.channels

    @property
    def coordinator(self) -> CoordinatorMethods:
        return CoordinatorServiceStub(self._channel("coordinator"))

    def _channel(self, service: str) -> grpc.aio.Channel:
        """Raises ServiceFailedError where this gateway has no such service behind it."""
        channel = self.channels.get(service)
        if channel is None:
            raise ServiceFailedError(service, grpc.StatusCode.NOT_FOUND, REWARDS_ONLY)
        return channel

    async def ready(self) -> dict[str, bool]:
        """What each service's own health check says; one that does not answer is not ready."""
        answers = await asyncio.gather(*(_is_serving(channel) for channel in self.channels.values()))
        return dict(zip(self.channels, answers, strict=True))


async def call(service: str, method: Calls[RequestT, AnswerT], request: RequestT, timeout_s: float) -> AnswerT:
    """One call. Raises ServiceFailedError, which says which service failed and how."""
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise ServiceFailedError(service, error.code(), _said(error.details() or "")) from error


def _said(details: str) -> str:
    """What gRPC says of a call that failed, and what to do where nobody was there."""
    if UNREACHABLE in details:
        return "nobody answers at its address (section [endpoints]): start the service, or wait until it is up again"
    return details


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
