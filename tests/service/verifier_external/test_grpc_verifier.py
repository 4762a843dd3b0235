"""Verifiers behind our own gRPC API, on real loopback servers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Authority
from fakes import ManualClock
from oprime.core.verification import Outcome, Verdict, VerificationRequest, correct, unscored
from oprime.runtime.errors import NotReadyError, UnusableInputError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.settings import TlsSection
from oprime.wire.verification import outcome_to_proto, request_from_proto
from oprime_proto.v1 import verification_pb2, verifier_pb2_grpc
from oprime_proto.v1.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from oprime_verifier.external.grpc_verifier import GrpcVerifier
from oprime_verifier.external.outage import FLAG
from oprime_verifier.external.settings import GrpcSection

REQUEST = VerificationRequest(kind="mine", response="8", golds=("8", "9"), request_id="r1", options={"strict": True}, metadata={"a": "b"})
Judge = Callable[[VerificationRequest], Awaitable[Outcome]]


class Scripted(verifier_pb2_grpc.VerifierServiceServicer):
    """A VerifierService of somebody else."""

    def __init__(self, judge: Judge, request_id: str | None = None) -> None:
        self.judge = judge
        self.seen: list[VerificationRequest] = []
        self._request_id = request_id

    async def Verify(self, request: verification_pb2.VerifyRequest, context: grpc.aio.ServicerContext) -> verification_pb2.VerifyResponse:
        self.seen.append(request_from_proto(request))
        answer = await self.judge(self.seen[-1])
        return outcome_to_proto(answer, self._request_id if self._request_id is not None else request.request_id)


@asynccontextmanager
async def verifier(
    judge: Judge, request_id: str | None = None, clock: Any = None, server_tls: TlsSection | None = None, **settings: Any
) -> AsyncIterator[tuple[GrpcVerifier, Scripted]]:
    servicer, server = Scripted(judge, request_id), GrpcServer("127.0.0.1:0", tls=server_tls)
    server.add(add_VerifierServiceServicer_to_server, servicer, "oprime_proto.v1.VerifierService")
    port = await server.start()
    section = GrpcSection.model_validate({"address": f"127.0.0.1:{port}", **settings})
    client = GrpcVerifier("mine", section, clock=clock)
    try:
        yield client, servicer
    finally:
        await client.close()
        await server.stop(0)


async def right(_request: VerificationRequest) -> Outcome:
    return correct(answer="8", reason="equal")


async def hanging(_request: VerificationRequest) -> Outcome:
    await asyncio.sleep(60)
    return correct()


async def unavailable(_request: VerificationRequest) -> Outcome:
    raise NotReadyError("no worker yet")


async def unknown_kind(_request: VerificationRequest) -> Outcome:
    raise UnusableInputError("unknown verifier 'mine'")


async def crashing(_request: VerificationRequest) -> Outcome:
    raise RuntimeError("oops")


async def test_the_whole_request_arrives_and_the_whole_outcome_comes_back() -> None:
    async with verifier(right) as (client, servicer):
        outcome = await client.verify(REQUEST)
    assert (outcome.verdict, outcome.answer, outcome.reason) == (Verdict.CORRECT, "8", "equal")
    seen = servicer.seen[0]
    assert (seen.kind, seen.golds, seen.request_id, dict(seen.options), dict(seen.metadata)) == (
        "mine",
        ("8", "9"),
        "r1",
        {"strict": True},
        {"a": "b"},
    )


async def test_the_verifier_may_have_another_name_there() -> None:
    async with verifier(right, kind="math") as (client, servicer):
        await client.verify(VerificationRequest(kind="mine", response="8"))
        assert "The verifier math at" in client.describe().description
    assert servicer.seen[0].kind == "math"


async def test_an_outcome_without_a_score_stays_without() -> None:
    async def undecided(_request: VerificationRequest) -> Outcome:
        return unscored(Verdict.UNDECIDED, "too hard")

    async with verifier(undecided) as (client, _):
        assert (await client.verify(REQUEST)).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("judge", "told", "tries"),
    [(unavailable, "UNAVAILABLE", None), (unknown_kind, "INVALID_ARGUMENT: unknown verifier 'mine'", 1), (crashing, "UNKNOWN", 2)],
)
async def test_a_failed_call_is_an_infrastructure_error(judge: Judge, told: str, tries: int | None) -> None:
    async with verifier(judge, attempts=2) as (client, servicer):
        outcome = await client.verify(REQUEST)
    assert (outcome.verdict, outcome.score, outcome.cacheable) == (Verdict.INFRA_ERROR, None, False)
    assert told in outcome.reason
    assert tries is None or len(servicer.seen) == tries


async def test_a_service_that_says_that_its_own_judge_is_out_is_tried_again_and_passes_it_on() -> None:
    async def out(_request: VerificationRequest) -> Outcome:
        return unscored(Verdict.INFRA_ERROR, "its judge is down", flags=(FLAG,), cacheable=False)

    async with verifier(out, attempts=2) as (client, servicer):
        outcome = await client.verify(REQUEST)
    assert (outcome.verdict, outcome.flags, len(servicer.seen)) == (Verdict.INFRA_ERROR, (FLAG,), 2)
    assert "its judge is down" in outcome.reason


async def test_a_slow_service_ends_at_the_deadline() -> None:
    async with verifier(hanging, deadline_s=0.3) as (client, _):
        assert (await client.verify(REQUEST)).verdict is Verdict.INFRA_ERROR


async def test_an_answer_to_another_request_is_refused() -> None:
    async with verifier(right, request_id="other", attempts=1) as (client, _):
        outcome = await client.verify(REQUEST)
    assert outcome.verdict is Verdict.INFRA_ERROR
    assert "'other'" in outcome.reason


async def test_options_that_the_wire_cannot_carry_are_a_bad_task() -> None:
    async with verifier(right, kind="math") as (client, servicer):
        outcome = await client.verify(VerificationRequest(kind="mine", response="8", options={"no_such_option": True}))
    assert outcome.verdict is Verdict.BAD_TASK
    assert "no_such_option" in outcome.reason
    assert servicer.seen == []


async def test_nobody_listening_is_an_infrastructure_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = GrpcVerifier("mine", GrpcSection(address=f"127.0.0.1:{port}", attempts=1, deadline_s=2.0))
    try:
        assert (await client.verify(REQUEST)).verdict is Verdict.INFRA_ERROR
    finally:
        await client.close()


async def test_the_circuit_opens_and_closes_again() -> None:
    clock = ManualClock()
    async with verifier(crashing, clock=clock, attempts=1, circuit_failures=1, circuit_open_s=10) as (client, servicer):
        await client.verify(REQUEST)
        assert "not called" in (await client.verify(REQUEST)).reason
        assert "circuit is open" in client.describe().problem
        servicer.judge = right
        clock.advance(10)
        assert (await client.verify(REQUEST)).verdict is Verdict.CORRECT
        assert client.describe().problem == ""


@pytest.mark.parametrize(("shown", "verdict"), [(True, Verdict.CORRECT), (False, Verdict.INFRA_ERROR)])
async def test_a_service_that_asks_for_certificates_is_shown_those_of_the_settings(tmp_path: Path, shown: bool, verdict: Verdict) -> None:
    authority = Authority(tmp_path)
    tls = authority.issue("client").files if shown else {"authority_file": authority.file}
    async with verifier(right, server_tls=authority.issue("server", "127.0.0.1"), tls=tls, attempts=1, deadline_s=5) as (client, _):
        assert (await client.verify(REQUEST)).verdict is verdict
