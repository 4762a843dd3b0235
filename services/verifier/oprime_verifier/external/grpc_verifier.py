"""A verifier behind gRPC: a VerifierService at another address."""

import random
from dataclasses import replace

import grpc

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.ports import Clock
from oprime.runtime.grpc_client import connect
from oprime.wire.verification import outcome_from_proto, request_to_proto
from oprime_proto.v1 import verification_pb2
from oprime_proto.v1.verifier_pb2_grpc import VerifierServiceStub
from oprime_verifier.external.attempts import Attempts, TryFailedError
from oprime_verifier.external.circuit import CircuitState
from oprime_verifier.external.results import BrokenContractError, passing
from oprime_verifier.external.settings import GrpcSection
from oprime_verifier.ports import VerifierDescription

_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)
"""Codes after which another try may do better."""
_REFUSED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION})
"""Codes of a service that works."""
_OWN = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE})
"""Codes that are about this one request."""


class GrpcVerifier:
    """Asks another VerifierService. Whatever fails is INFRA_ERROR with the reason."""

    def __init__(self, name: str, section: GrpcSection, *, clock: Clock | None = None, chance: random.Random | None = None) -> None:
        self._name = name
        self._section = section
        self._channel = connect(section.address, section.tls, f"verifier.services.{name}.tls")
        self._stub = VerifierServiceStub(self._channel)
        self._attempts = Attempts(section, target=f"service {name} ({section.address})", clock=clock, chance=chance)

    async def verify(self, request: VerificationRequest) -> Outcome:
        try:
            message = request_to_proto(replace(request, kind=self._section.kind or request.kind))
        except ValueError as error:
            return unscored(Verdict.BAD_TASK, str(error))

        async def once(seconds: float) -> Outcome:
            message.deadline_s = round(seconds, 3)
            try:
                answer = await self._stub.Verify(message, timeout=seconds)
                return _outcome(answer, request.request_id)
            except grpc.aio.AioRpcError as error:
                code = error.code()
                reason = f"{code.name}: {error.details()}"
                raise TryFailedError(reason, retry=code in _PASSING, healthy=code in _REFUSED, own=code in _OWN) from error
            except (BrokenContractError, KeyError, ValueError) as error:
                raise TryFailedError(f"its answer cannot be used: {error}", retry=False, own=True) from error

        return await self._attempts.outcome(request, once)

    def describe(self) -> VerifierDescription:
        state = self._attempts.circuit.state
        return VerifierDescription(
            name=self._name,
            description=f"The verifier {self._section.kind or self._name} at {self._section.address}.",
            problem="" if state is CircuitState.CLOSED else f"it failed repeatedly; its circuit is {state}",
            outage=self._attempts.outage,
        )

    async def close(self) -> None:
        await self._channel.close()


def _outcome(answer: verification_pb2.VerifyResponse, request_id: str) -> Outcome:
    if answer.request_id != request_id:
        raise BrokenContractError(f"it answered request {answer.request_id!r} when asked {request_id!r}")
    return passing(outcome_from_proto(answer))
