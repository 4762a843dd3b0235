"""POST /v1/rewards: inputs to the PRM's items, and its answers to token, step and sequence rewards."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from oprime.core.types import ChatMessage
from oprime.wire.codec import floats_from_bytes, ids_from_bytes, ids_to_bytes, messages_to_proto
from oprime_gateway.columns import Columns, floats, short
from oprime_gateway.models import (
    ItemError,
    Message,
    RewardInput,
    RewardItem,
    RewardsRequest,
    RewardsUsage,
    ScoringOptions,
    SequenceReward,
    StepColumns,
    TokenColumns,
    Truncated,
)
from oprime_gateway.rewards import (
    How,
    Range,
    Reduction,
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
from oprime_gateway.scoring import Asked, Scored
from oprime_proto.v1 import prm_pb2 as pb

TRUNCATIONS = {"error": pb.TRUNCATION_UNSPECIFIED, "left": pb.TRUNCATION_LEFT, "right": pb.TRUNCATION_RIGHT}


class InputError(ValueError):
    """This input cannot be scored; the others can."""


def asked_of(inputs: Sequence[RewardInput], options: ScoringOptions) -> list[Asked]:
    """What to ask the PRM for each input."""
    return [_asked(item, options) for item in inputs]


def chat_item(messages: Sequence[Message], response: str, options: ScoringOptions) -> pb.ScoreItem:
    """A response that follows a conversation."""
    chat = pb.ChatScoreInput(
        messages=messages_to_proto(tuple(ChatMessage(role=message.role, content=message.text) for message in messages)),
        response=response,
        special_tokens=options.special_tokens,
    )
    return pb.ScoreItem(chat=chat, truncation=TRUNCATIONS[options.truncation])


def user_message(text: str) -> Message:
    return Message(role="user", content=text)


def _asked(item: RewardInput, options: ScoringOptions) -> Asked:
    if item.prompt_token_ids is not None:
        tokens = pb.TokenScoreInput(
            prompt_ids=ids_to_bytes(item.prompt_token_ids), response_ids=ids_to_bytes(item.response_token_ids or ())
        )
        return pb.ScoreItem(tokens=tokens, truncation=TRUNCATIONS[options.truncation])
    if item.raw:
        text = pb.TextScoreInput(prompt=item.prompt or "", response=item.response or "")
        return pb.ScoreItem(text=text, truncation=TRUNCATIONS[options.truncation])
    if item.messages is None:
        return chat_item([user_message(item.prompt or "")], item.response or "", options)
    *context, last = item.messages
    if last.role != "assistant":
        return f"the last message has the role {last.role!r}; it is the one that is scored and must be the assistant's"
    return chat_item(context, last.text, options)


def answered(scored: Scored, kind: str = "rewards") -> dict[str, Any]:
    """The fields that every answer has."""
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model_revision": scored.revision,
        "prm_version": scored.prm_version,
        "beta": short(scored.beta),
        "reference_model": scored.reference_model,
    }


def usage(answers: Sequence[pb.ScoredResponse], items: Sequence[RewardItem]) -> RewardsUsage:
    return RewardsUsage(
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        response_tokens=sum(len(answer.response_ids) // 4 for answer in answers),
        failed_inputs=sum(item.error is not None for item in items),
    )


def reward_item(request: RewardsRequest, index: int, answer: pb.ScoredResponse) -> RewardItem:
    """Cut into steps, reduce, and pack the answer for the input at this index."""
    item = request.inputs[index]
    if answer.error:
        return RewardItem(index=index, id=item.id, error=ItemError(detail=answer.error))
    try:
        tokens = _token_rewards(request, answer, item.response_text)
        steps = _step_rewards(request, index, answer, tokens, item.response_text) if _needs_steps(request) else None
    except (InputError, SpansError) as error:
        return RewardItem(index=index, id=item.id, error=ItemError(detail=str(error)))
    columns = Columns(as_base64=request.encoding_format == "base64")
    return RewardItem(
        index=index,
        id=item.id,
        tokens=_token_columns(request, tokens, columns),
        steps=_step_columns(steps, columns, _how(request, request.step_reduction)) if steps and "step" in request.granularity else None,
        sequence=SequenceReward(reward=reward_of(request, tokens, steps)) if steps and "sequence" in request.granularity else None,
        truncated=_truncated(answer),
    )


def token_and_step_rewards(
    options: ScoringOptions, index: int, answer: pb.ScoredResponse, text: str | None
) -> tuple[TokenRewards, StepRewards]:
    """Of the input at this index, whose response is `text` unless it was given as tokens. Raises InputError and SpansError."""
    tokens = _token_rewards(options, answer, text)
    return tokens, _step_rewards(options, index, answer, tokens, text)


def _token_rewards(options: ScoringOptions, answer: pb.ScoredResponse, text: str | None) -> TokenRewards:
    tokens = token_rewards(answer, text)
    return tokens.without_end_token() if options.end_token == "exclude" else tokens  # noqa: S105 - no password


def _step_rewards(options: ScoringOptions, index: int, answer: pb.ScoredResponse, tokens: TokenRewards, text: str | None) -> StepRewards:
    whole = "".join(tokens.texts) if text is None else text
    # The steps of a response that was cut short end where what was scored does.
    scored_chars = max((end for _, end in tokens.char_ranges), default=0) if answer.dropped_response_tokens else len(whole)
    return _steps(options, index, tokens, whole, scored_chars)


def _needs_steps(request: RewardsRequest) -> bool:
    """Whether anything of an answer comes from steps, or spans that the client gave are to be checked."""
    return request.steps.spans is not None or not {"step", "sequence"}.isdisjoint(request.granularity)


def reward_of(options: ScoringOptions, tokens: TokenRewards, steps: StepRewards) -> float | None:
    """The reward of a whole response; None where there is none."""
    parts = steps.rewards if options.steps.mode != "none" else tokens.rewards
    how = _how(options, options.sequence_reduction)
    return printed(sequence_reward(parts, how, tokens=len(tokens.ids)), how)


def printed(reward: float | None, how: How) -> float | None:
    """A sum with all its decimals, which are few; anything else as the nearest float32. None beyond float32."""
    narrow = None if reward is None else short(reward)
    return reward if narrow is not None and how.reduction is Reduction.SUM else narrow


def token_rewards(answer: pb.ScoredResponse, text: str | None) -> TokenRewards:
    """The PRM's answer for one response. Raises InputError if its columns do not fit each other or the text, or are not finite."""
    texts = tuple(answer.token_texts)
    ranges = ranges_of_texts(texts) if text is None else tuple(zip(answer.char_starts, answer.char_ends, strict=False))
    values = [floats_from_bytes(column) for column in (answer.process_rewards, answer.prm_logprobs, answer.reference_logprobs)]
    ids = ids_from_bytes(answer.response_ids)
    if len({len(texts), len(ranges), len(ids), *map(len, values)}) > 1 or (text is not None and not _fits(ranges, len(text))):
        raise InputError("the PRM's answer does not fit the response: gateway and PRM run different versions")
    if not np.isfinite(values).all():
        raise InputError("the PRM gives a reward that is no finite number: its weights are damaged, or its training has diverged")
    rewards, logprobs, reference_logprobs = values
    return TokenRewards(
        ids=tuple(ids.tolist()),
        rewards=tuple(floats(rewards)),
        logprobs=tuple(logprobs.tolist()),
        reference_logprobs=tuple(reference_logprobs.tolist()),
        texts=texts,
        char_ranges=ranges,
        has_end_token=answer.has_end_token,
    )


def _fits(ranges: Sequence[Range], characters: int) -> bool:
    return all(0 <= start <= end <= characters for start, end in ranges)


def _how(options: ScoringOptions, reduction: Any) -> How:
    return How(reduction=reduction, discount=options.discount or 1.0)


def _steps(options: ScoringOptions, index: int, scored: TokenRewards, text: str, scored_chars: int) -> StepRewards:
    steps, how = options.steps, _how(options, options.step_reduction)
    chars: tuple[Range, ...]
    if steps.mode == "token_spans":
        tokens = check_partition(_spans(options, index), len(scored.ids), "tokens")
        return step_rewards(scored, chars_of_steps(scored.char_ranges, tokens), tokens, how)
    if steps.mode == "char_spans":
        chars = check_partition(_spans(options, index), len(text), "code points")
    elif steps.mode == "delimiter":
        chars = split_at_delimiter(text, steps.delimiter)
    else:
        chars = ((0, len(text)),)
    chars = tuple((start, min(end, scored_chars)) for start, end in chars if start < scored_chars) or ((0, 0),)
    return step_rewards(scored, chars, tokens_of_steps(scored.char_ranges, chars), how)


def _spans(options: ScoringOptions, index: int) -> list[Range]:
    return [(start, end) for start, end in (options.steps.spans or [])[index]]


def _token_columns(request: RewardsRequest, scored: TokenRewards, columns: Columns) -> TokenColumns | None:
    include, wanted = set(request.include), "token" in request.granularity
    if not include and not wanted:
        return None
    return TokenColumns(
        rewards=columns.some_floats(scored.rewards) if wanted else None,
        ids=columns.ints(scored.ids) if "tokens" in include else None,
        text=list(scored.texts) if "tokens" in include else None,
        char_start=columns.ints([start for start, _ in scored.char_ranges]) if "offsets" in include else None,
        char_end=columns.ints([end for _, end in scored.char_ranges]) if "offsets" in include else None,
        logprobs=columns.floats(scored.logprobs) if "logprobs" in include else None,
        ref_logprobs=columns.floats(scored.reference_logprobs) if "ref_logprobs" in include else None,
        end_token=scored.end_token,
    )


def _step_columns(steps: StepRewards, columns: Columns, how: How) -> StepColumns:
    return StepColumns(
        rewards=columns.some_floats([printed(reward, how) for reward in steps.rewards]),
        char_start=columns.ints([start for start, _ in steps.char_ranges]),
        char_end=columns.ints([end for _, end in steps.char_ranges]),
        token_start=columns.ints([start for start, _ in steps.token_ranges]),
        token_end=columns.ints([end for _, end in steps.token_ranges]),
        end_token=steps.end_token_step,
    )


def _truncated(answer: pb.ScoredResponse) -> Truncated | None:
    prompt, response = answer.dropped_prompt_tokens, answer.dropped_response_tokens
    return Truncated(prompt_tokens=prompt, response_tokens=response) if prompt or response else None
