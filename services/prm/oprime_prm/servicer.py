"""PrmService over gRPC."""

from oprime.runtime.heartbeat import BusyMeter
from oprime.wire.codec import floats_to_bytes, ids_from_bytes, ids_to_bytes, messages_from_proto
from oprime_prm.scoring.inputs import ChatInput, Form, TextInput, TokenInput, Wanted
from oprime_prm.scoring.scorer import ScoredItem, Scorer
from oprime_prm.scoring.tokenise import Truncation
from oprime_proto.v1 import prm_pb2 as pb
from oprime_proto.v1 import prm_pb2_grpc

TRUNCATIONS = {pb.TRUNCATION_LEFT: Truncation.LEFT, pb.TRUNCATION_RIGHT: Truncation.RIGHT}


class PrmServicer(prm_pb2_grpc.PrmServiceServicer):
    def __init__(self, scorer: Scorer, meter: BusyMeter, *, model: str, reference_model: str, beta: float) -> None:
        self._scorer = scorer
        self._meter = meter
        self._model = model
        self._reference_model = reference_model
        self._beta = beta

    async def Score(self, request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
        version = request.prm_version if request.HasField("prm_version") else None
        scored = await self._scorer.score([_wanted(item) for item in request.items], version)
        return pb.ScoreResponse(
            responses=[_to_proto(item) for item in scored.items],
            prm_version=scored.version,
            beta=self._beta,
            reference_model=self._reference_model,
        )

    async def Status(self, request: pb.PrmServiceStatusRequest, context: object) -> pb.PrmServiceStatusResponse:
        newest = self._scorer.versions.newest
        return pb.PrmServiceStatusResponse(
            prm_version=newest,
            step=newest,
            model=self._model,
            reference_model=self._reference_model,
            scored_tokens=self._scorer.scored_tokens,
            waiting_tokens=self._scorer.waiting_tokens,
            versions=self._scorer.versions.versions(),
            **self._meter.read(),
        )


def _wanted(item: pb.ScoreItem) -> Wanted:
    return Wanted(form=_form(item), truncation=TRUNCATIONS.get(item.truncation, Truncation.ERROR), most=item.max_tokens)


def _form(item: pb.ScoreItem) -> Form:
    match item.WhichOneof("input"):
        case "chat":
            messages = messages_from_proto(list(item.chat.messages))
            return ChatInput(messages=messages, response=item.chat.response, special_tokens=item.chat.special_tokens)
        case "text":
            return TextInput(prompt=item.text.prompt, response=item.text.response)
        case _:
            return TokenInput(prompt_ids=ids_from_bytes(item.tokens.prompt_ids), response_ids=ids_from_bytes(item.tokens.response_ids))


def _to_proto(item: ScoredItem | str) -> pb.ScoredResponse:
    if isinstance(item, str):
        return pb.ScoredResponse(error=item)
    return pb.ScoredResponse(
        response_ids=ids_to_bytes(item.input.response_ids),
        process_rewards=floats_to_bytes(item.scores.process_rewards.numpy()),
        prm_logprobs=floats_to_bytes(item.scores.prm_logprobs.numpy()),
        reference_logprobs=floats_to_bytes(item.scores.reference_logprobs.numpy()),
        token_texts=item.input.token_texts,
        char_starts=[start for start, _ in item.input.spans],
        char_ends=[end for _, end in item.input.spans],
        prompt_tokens=len(item.input.prompt_ids),
        has_end_token=item.input.has_end_token,
        dropped_prompt_tokens=item.input.dropped_prompt,
        dropped_response_tokens=item.input.dropped_response,
        trailing_tokens=item.input.trailing,
    )
