"""Verification requests and outcomes to protobuf and back."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from oprime.core.verification import Outcome, TestResult, Verdict, VerificationRequest, VerifierIdentity
from oprime.wire.structs import struct_of, values_of
from oprime_proto.v1 import verification_pb2 as pb

_VERDICT_TO_PROTO: dict[Verdict, Any] = {verdict: pb.Verdict.Value(f"VERDICT_{verdict.value}") for verdict in Verdict}
_VERDICT_FROM_PROTO = {number: verdict for verdict, number in _VERDICT_TO_PROTO.items()}


def request_to_proto(request: VerificationRequest) -> pb.VerifyRequest:
    """Raises ValueError for options that the wire cannot carry."""
    message = pb.VerifyRequest(
        request_id=request.request_id,
        task_id=request.task_id,
        kind=request.kind,
        response=request.response,
        prompt=request.prompt,
        golds=request.golds,
        tests=request.tests,
        deadline_s=request.deadline_s,
        group_id=request.group_id,
        seed=request.seed,
        data_source=request.data_source,
        metadata=dict(request.metadata),
    )
    if request.options:
        _set_options(message, request.options)
    return message


def request_from_proto(message: pb.VerifyRequest) -> VerificationRequest:
    """Whole numbers among the options of a plug-in arrive as int. Raises ValueError for a number that JSON does not have."""
    return VerificationRequest(
        request_id=message.request_id,
        task_id=message.task_id,
        kind=message.kind,
        response=message.response,
        prompt=message.prompt,
        golds=tuple(message.golds),
        tests=message.tests,
        options=_options(message),
        deadline_s=message.deadline_s,
        group_id=message.group_id,
        seed=message.seed,
        data_source=message.data_source,
        metadata=dict(message.metadata),
    )


def outcome_to_proto(outcome: Outcome, request_id: str = "") -> pb.VerifyResponse:
    return pb.VerifyResponse(
        request_id=request_id,
        verdict=_VERDICT_TO_PROTO[outcome.verdict],
        score=outcome.score,
        components=dict(outcome.components),
        answer=outcome.answer,
        reason=outcome.reason,
        tests=[_test_to_proto(test) for test in outcome.tests],
        timings=dict(outcome.timings),
        verifier=pb.VerifierIdentity(
            name=outcome.verifier.name,
            version=outcome.verifier.version,
            config_hash=outcome.verifier.config_hash,
            sandbox_profile=outcome.verifier.sandbox_profile,
        ),
        flags=outcome.flags,
        cacheable=outcome.cacheable,
    )


def outcome_from_proto(message: pb.VerifyResponse) -> Outcome:
    """Raises KeyError for a verdict of a newer version, ValueError where verdict and score contradict each other."""
    return Outcome(
        verdict=_VERDICT_FROM_PROTO[message.verdict],
        score=message.score if message.HasField("score") else None,
        components=dict(message.components),
        answer=message.answer,
        reason=message.reason,
        tests=tuple(_test_from_proto(test) for test in message.tests),
        timings=dict(message.timings),
        verifier=VerifierIdentity(
            name=message.verifier.name,
            version=message.verifier.version,
            config_hash=message.verifier.config_hash,
            sandbox_profile=message.verifier.sandbox_profile,
        ),
        flags=tuple(message.flags),
        cacheable=message.cacheable,
    )


def _set_options(message: pb.VerifyRequest, options: Mapping[str, Any]) -> None:
    known: Message | None = {"math": message.math, "code": message.code}.get(message.kind)
    try:
        if known is None:
            message.other.CopyFrom(struct_of(options))
        else:
            known.SetInParent()
            json_format.ParseDict(dict(options), known)
    except (ValueError, json_format.ParseError) as error:
        raise ValueError(f"options of a {message.kind} request: {error}; docs/verifier.md lists them") from error


def _options(message: pb.VerifyRequest) -> dict[str, Any]:
    chosen = message.WhichOneof("options")
    if chosen == "other":
        return values_of(message.other)
    return json_format.MessageToDict(getattr(message, chosen), preserving_proto_field_name=True) if chosen else {}


def _test_to_proto(test: TestResult) -> pb.TestResult:
    return pb.TestResult(
        index=test.index, verdict=_VERDICT_TO_PROTO[test.verdict], cpu_s=test.cpu_s, wall_s=test.wall_s, peak_bytes=test.peak_bytes
    )


def _test_from_proto(test: pb.TestResult) -> TestResult:
    return TestResult(
        index=test.index, verdict=_VERDICT_FROM_PROTO[test.verdict], cpu_s=test.cpu_s, wall_s=test.wall_s, peak_bytes=test.peak_bytes
    )
