"""POST /v1/rewards: one request to one PrmService.Score call and back."""

import time
import uuid
from collections.abc import Sequence

from oprime.core.types import ChatMessage
from oprime.wire.codec import floats_from_bytes, ids_from_bytes, ids_to_bytes, messages_to_proto
from oprime_gateway.models import (
    ItemError,
    RewardInput,
    RewardItem,
    RewardsRequest,
    RewardsResponse,
    RewardsUsage,
    SequenceReward,
    StepColumns,
    Steps,
    TokenColumns,
)
from oprime_gateway.rewards import (
    Range,
    SpansError,
    StepRewards,
    TokenRewards,
    chars_of_steps,
    check_partition,
    ranges_of_texts,
    sequence_reward,
    split_at_delimiter,
    step_rewards,
    tokens_of_steps,
)
from oprime_proto.v1 import prm_pb2 as pb


class InputError(ValueError):
    """This input cannot be scored; the others can."""


def score_request(inputs: Sequence[RewardInput]) -> tuple[pb.ScoreRequest, dict[int, str]]:
    """The PRM's request, and the errors of inputs that are left out of it, by index."""
    items: list[pb.ScoreItem] = []
    errors: dict[int, str] = {}
    for index, item in enumerate(inputs):
        try:
            items.append(_score_item(item))
        except InputError as error:
            errors[index] = str(error)
    return pb.ScoreRequest(items=items), errors


def _score_item(item: RewardInput) -> pb.ScoreItem:
    if item.prompt_token_ids is not None:
        tokens = pb.TokenScoreInput(
            prompt_ids=ids_to_bytes(item.prompt_token_ids), response_ids=ids_to_bytes(item.response_token_ids or ())
        )
        return pb.ScoreItem(tokens=tokens)
    if item.messages is None:
        messages, response = (ChatMessage(role="user", content=item.prompt or ""),), item.response or ""
    else:
        *context, last = item.messages
        if last.role != "assistant":
            raise InputError(f"the last message has the role {last.role!r}; it is the one that is scored and must be the assistant's")
        messages, response = tuple(ChatMessage(role=message.role, content=message.content) for message in context), last.content
    return pb.ScoreItem(chat=pb.ChatScoreInput(messages=messages_to_proto(messages), response=response))


def rewards_response(
    request: RewardsRequest, scored: pb.ScoreResponse, left_out: dict[int, str], *, reference_model: str
) -> RewardsResponse:
    """Cut into steps, reduce, and put every input's result in its place."""
    answers = iter(scored.responses)
    data: list[RewardItem] = []
    tokens = 0
    for index, item in enumerate(request.inputs):
        if index in left_out:
            data.append(RewardItem(index=index, id=item.id, error=ItemError(detail=left_out[index])))
            continue
        answer = next(answers)
        tokens += len(answer.response_ids) // 4
        data.append(_item(request, index, answer))
    return RewardsResponse(
        id=f"rewards-{uuid.uuid4().hex}",
        created=int(time.time()),
        model_revision=revision(scored.prm_version),
        prm_version=scored.prm_version,
        beta=scored.beta,
        reference_model=reference_model,
        data=data,
        usage=RewardsUsage(response_tokens=tokens, failed_inputs=sum(item.error is not None for item in data)),
    )


def revision(prm_version: int) -> str:
    return f"prm@{prm_version}"


def _item(request: RewardsRequest, index: int, answer: pb.ScoredResponse) -> RewardItem:
    item = request.inputs[index]
    if answer.error:
        return RewardItem(index=index, id=item.id, error=ItemError(detail=answer.error))
    try:
        text = item.response if item.messages is None else item.messages[-1].content
        scored = token_rewards(answer, text)
        steps = _steps(request, index, scored, "".join(scored.texts) if text is None else text)
    except (InputError, SpansError) as error:
        return RewardItem(index=index, id=item.id, error=ItemError(detail=str(error)))
    parts = steps.rewards if request.steps.mode != "none" else scored.rewards
    return RewardItem(
        index=index,
        id=item.id,
        tokens=_token_columns(request, scored),
        steps=_step_columns(steps) if "step" in request.granularity else None,
        sequence=SequenceReward(reward=sequence_reward(parts, request.sequence_reduction)) if "sequence" in request.granularity else None,
    )


def token_rewards(answer: pb.ScoredResponse, text: str | None) -> TokenRewards:
    """The PRM's answer for one response. Raises InputError if its columns do not fit each other or the text."""
    texts = tuple(answer.token_texts)
    ranges = ranges_of_texts(texts) if text is None else tuple(zip(answer.char_starts, answer.char_ends, strict=True))
    scored = TokenRewards(
        ids=tuple(ids_from_bytes(answer.response_ids).tolist()),
        rewards=tuple(floats_from_bytes(answer.process_rewards).tolist()),
        logprobs=tuple(floats_from_bytes(answer.prm_logprobs).tolist()),
        reference_logprobs=tuple(floats_from_bytes(answer.reference_logprobs).tolist()),
        texts=texts,
        char_ranges=ranges,
    )
    lengths = {len(scored.ids), len(scored.rewards), len(scored.logprobs), len(scored.reference_logprobs), len(texts), len(ranges)}
    if len(lengths) > 1 or (text is not None and any(not 0 <= start <= end <= len(text) for start, end in ranges)):
        raise InputError("the PRM's answer does not fit the response: gateway and PRM run different versions")
    return scored


def _steps(request: RewardsRequest, index: int, scored: TokenRewards, text: str) -> StepRewards:
    steps: Steps = request.steps
    chars: tuple[Range, ...]
    if steps.mode == "token_spans":
        tokens = check_partition((steps.spans or [])[index], len(scored.ids), "tokens")
        return step_rewards(scored, chars_of_steps(scored.char_ranges, tokens), tokens, request.step_reduction)
    if steps.mode == "char_spans":
        chars = check_partition((steps.spans or [])[index], len(text), "code points")
    elif steps.mode == "delimiter":
        chars = split_at_delimiter(text, steps.delimiter)
    else:
        chars = ((0, len(text)),)
    return step_rewards(scored, chars, tokens_of_steps(scored.char_ranges, chars), request.step_reduction)


def _token_columns(request: RewardsRequest, scored: TokenRewards) -> TokenColumns | None:
    include, wanted = set(request.include), "token" in request.granularity
    if not include and not wanted:
        return None
    return TokenColumns(
        rewards=list(scored.rewards) if wanted else None,
        ids=list(scored.ids) if "tokens" in include else None,
        text=list(scored.texts) if "tokens" in include else None,
        char_start=[start for start, _ in scored.char_ranges] if "offsets" in include else None,
        char_end=[end for _, end in scored.char_ranges] if "offsets" in include else None,
        logprobs=list(scored.logprobs) if "logprobs" in include else None,
        ref_logprobs=list(scored.reference_logprobs) if "ref_logprobs" in include else None,
        end_token=scored.end_token,
    )


def _step_columns(steps: StepRewards) -> StepColumns:
    return StepColumns(
        rewards=list(steps.rewards),
        char_start=[start for start, _ in steps.char_ranges],
        char_end=[end for _, end in steps.char_ranges],
        token_start=[start for start, _ in steps.token_ranges],
        token_end=[end for _, end in steps.token_ranges],
    )
