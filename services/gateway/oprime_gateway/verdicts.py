"""POST /v1/verify: JSON to VerifierService and back."""

from oprime.wire.codec import outcome_from_proto
from oprime_gateway.models import VerifyItem, VerifyRequest
from oprime_proto.v1 import verifier_pb2 as pb


def verify_request(body: VerifyRequest) -> pb.VerifyBatchRequest:
    return pb.VerifyBatchRequest(
        requests=[
            pb.VerifyRequest(verifier=item.verifier, response=item.response, ground_truth=item.ground_truth, data_source=item.data_source)
            for item in body.inputs
        ]
    )


def verify_response(body: VerifyRequest, judged: pb.VerifyBatchResponse) -> list[VerifyItem]:
    items: list[VerifyItem] = []
    for index, (item, answer) in enumerate(zip(body.inputs, judged.responses, strict=True)):
        outcome = outcome_from_proto(answer.outcome)
        items.append(
            VerifyItem(
                index=index,
                id=item.id,
                status=outcome.status.value,
                score=outcome.score,
                reason=outcome.reason,
                answer=outcome.answer,
                verifier=outcome.verifier or item.verifier,
                seconds=answer.seconds,
            )
        )
    return items
