"""POST /v1/verify and GET /v1/verifiers: JSON to VerifierService and back."""

import json

from oprime.core.verification import VerificationRequest
from oprime.wire.structs import values_of
from oprime.wire.verification import outcome_from_proto, request_to_proto
from oprime_gateway.models import (
    SandboxPart,
    VerifiedBy,
    VerifiedTest,
    VerifierCard,
    VerifiersResponse,
    VerifyInput,
    VerifyItem,
    VerifyRequest,
)
from oprime_proto.v1 import verifier_pb2 as pb


def verify_request(body: VerifyRequest) -> pb.VerifyBatchRequest:
    """Raises ValueError for options that do not exist."""
    return pb.VerifyBatchRequest(requests=[request_to_proto(_request(item)) for item in body.inputs])


def verify_response(judged: pb.VerifyBatchResponse) -> list[VerifyItem]:
    items: list[VerifyItem] = []
    for index, answer in enumerate(judged.responses):
        outcome = outcome_from_proto(answer)
        items.append(
            VerifyItem(
                index=index,
                request_id=answer.request_id,
                verdict=outcome.verdict,
                status=outcome.status.value,
                score=outcome.score,
                components=dict(outcome.components),
                extracted=outcome.answer,
                explanation=outcome.reason,
                tests=[
                    VerifiedTest(index=test.index, verdict=test.verdict, cpu_s=test.cpu_s, wall_s=test.wall_s, peak_bytes=test.peak_bytes)
                    for test in outcome.tests
                ],
                timings=dict(outcome.timings),
                verifier=VerifiedBy(
                    name=outcome.verifier.name,
                    version=outcome.verifier.version,
                    config_hash=outcome.verifier.config_hash,
                    sandbox_profile=outcome.verifier.sandbox_profile,
                ),
                flags=list(outcome.flags),
            )
        )
    return items


def verifiers_response(described: pb.DescribeResponse, health: pb.VerifierServiceHealthResponse) -> VerifiersResponse:
    return VerifiersResponse(
        data=[
            VerifierCard(
                name=known.name,
                version=known.version,
                description=known.description,
                options_schema=values_of(known.options_schema),
                problem=known.problem,
            )
            for known in described.verifiers
        ],
        serving=health.serving,
        reason=health.reason,
        sandbox_profile=health.sandbox.profile,
        sandbox_layers=[SandboxPart(name=layer.name, works=layer.active, detail=layer.detail) for layer in health.sandbox.layers],
        sandbox_probes=[SandboxPart(name=probe.name, works=probe.blocked, detail=probe.detail) for probe in health.sandbox.probes],
    )


def _request(item: VerifyInput) -> VerificationRequest:
    return VerificationRequest(
        kind=item.kind,
        response=item.response,
        golds=tuple(item.golds),
        tests=item.tests if isinstance(item.tests, str) else json.dumps(item.tests),
        options=item.options,
        prompt=item.prompt,
        request_id=item.request_id,
        task_id=item.task_id,
        group_id=item.group_id,
        data_source=item.data_source,
        deadline_s=item.deadline_s,
        seed=item.seed,
        metadata=item.metadata,
    )
