"""PrmService over gRPC."""

from oprime.runtime.errors import UnusableInputError
from oprime.runtime.heartbeat import BusyMeter
from oprime.wire.codec import floats_to_bytes, ids_from_bytes, ids_to_bytes, messages_from_proto
from oprime_prm.score import ScoredItem, ScoreInput, Scorer
from oprime_prm.serving import ServingPrm
from oprime_proto.v1 import prm_pb2 as pb
from oprime_proto.v1 import prm_pb2_grpc


class PrmServicer(prm_pb2_grpc.PrmServiceServicer):
    def __init__(self, scorer: Scorer, serving: ServingPrm, meter: BusyMeter, *, model: str, beta: float) -> None:
        self._scorer = scorer
        self._serving = serving
        self._meter = meter
        self._model = model
        self._beta = beta

    async def Score(self, request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        self._scorer.check_count(len(request.items))
        inputs = [_input_or_error(self._scorer, item) for item in request.items]
        items, version = await self._scorer.score([item for item in inputs if isinstance(item, ScoreInput)])
        scored = iter(items)
        responses = [_to_proto(next(scored)) if isinstance(item, ScoreInput) else pb.ScoredResponse(error=item) for item in inputs]
        return pb.ScoreResponse(responses=responses, prm_version=version, beta=self._beta)

    async def Status(self, request: pb.PrmServiceStatusRequest, context: object) -> pb.PrmServiceStatusResponse:
        return pb.PrmServiceStatusResponse(
            prm_version=self._serving.version,
            step=self._serving.version,
            model=self._model,
            scored_tokens=self._serving.scored_tokens,
            **self._meter.read(),
        )


def _input_or_error(scorer: Scorer, item: pb.ScoreItem) -> ScoreInput | str:
    """An item that cannot be scored fails alone, with its reason."""
    try:
        if item.WhichOneof("input") == "chat":
            return scorer.chat_input(messages_from_proto(list(item.chat.messages)), item.chat.response)
        prompt, response = ids_from_bytes(item.tokens.prompt_ids), ids_from_bytes(item.tokens.response_ids)
        return scorer.token_input(tuple(prompt.tolist()), tuple(response.tolist()))
    except UnusableInputError as error:
        return str(error)


def _to_proto(item: ScoredItem) -> pb.ScoredResponse:
    return pb.ScoredResponse(
        response_ids=ids_to_bytes(item.input.response_ids),
        process_rewards=floats_to_bytes(item.scores.process_rewards.numpy()),
        prm_logprobs=floats_to_bytes(item.scores.prm_logprobs.numpy()),
        reference_logprobs=floats_to_bytes(item.scores.reference_logprobs.numpy()),
        token_texts=item.token_texts,
        char_starts=[start for start, _ in item.input.spans],
        char_ends=[end for _, end in item.input.spans],
    )
