"""What a gateway answers, as records. Pure: from JSON to records."""

import base64
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

Span = tuple[int, int]
"""[start, end)"""
_DIGITS = range(6, 10)
"""So many tell any float32 from the others; the fewest are enough for a decimal of six."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRewards:
    """One value per response token. What was not asked for is empty."""

    rewards: Sequence[float] = ()
    """beta * (logprob - reference_logprob)."""
    ids: Sequence[int] = ()
    texts: Sequence[str] = ()
    char_spans: Sequence[Span] = ()
    """Code points of the response."""
    logprobs: Sequence[float] = ()
    reference_logprobs: Sequence[float] = ()
    end_token: int | None = None
    """Index of the end token, if the response has one."""

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        return cls(
            rewards=_floats(columns.get("rewards", ())),
            ids=_ints(columns.get("ids", ())),
            texts=columns.get("text", ()),
            char_spans=_spans(columns, "char"),
            logprobs=_floats(columns.get("logprobs", ())),
            reference_logprobs=_floats(columns.get("ref_logprobs", ())),
            end_token=columns.get("end_token"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRewards:
    """One value per step."""

    rewards: Sequence[float | None]
    """None for a step in which no token starts, where the reduction has no value for nothing."""
    char_spans: Sequence[Span]
    token_spans: Sequence[Span]
    end_token: int | None = None
    """Index of the step that holds the end token."""

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        rewards = columns["rewards"]
        return cls(
            rewards=[None if math.isnan(value) else value for value in _floats(rewards)] if isinstance(rewards, str) else rewards,
            char_spans=_spans(columns, "char"),
            token_spans=_spans(columns, "token"),
            end_token=columns.get("end_token"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredInput:
    """The rewards of one input, or why it has none."""

    index: int
    """Its place among all inputs of the call."""
    id: str | None = None
    revision: str
    """`prm@VERSION` that scored it; empty where the gateway refused to read it."""
    tokens: TokenRewards | None = None
    """If asked for; `steps` and `reward` likewise."""
    steps: StepRewards | None = None
    reward: float | None = None
    """Of the whole response."""
    error: str | None = None
    """Set instead of the rewards when this input could not be scored."""
    refused: int = 0
    """The HTTP status, 413 or 422, with which the gateway refused to read it, also alone; 0 where it did not."""
    dropped_prompt_tokens: int = 0
    """What a truncation left out."""
    dropped_response_tokens: int = 0

    @classmethod
    def of(cls, item: Mapping[str, Any], *, first: int, revision: str) -> Self:
        """`first` is the index of the request's first input."""
        truncated = item.get("truncated") or {}
        return cls(
            index=first + item["index"],
            id=item.get("id"),
            revision=revision,
            tokens=TokenRewards.of(item["tokens"]) if "tokens" in item else None,
            steps=StepRewards.of(item["steps"]) if "steps" in item else None,
            reward=(item.get("sequence") or {}).get("reward"),
            error=(item.get("error") or {}).get("detail"),
            dropped_prompt_tokens=truncated.get("prompt_tokens", 0),
            dropped_response_tokens=truncated.get("response_tokens", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """The rewards of all inputs, in order."""

    items: Sequence[ScoredInput]
    beta: float
    reference_model: str

    @property
    def revisions(self) -> frozenset[str]:
        """PRM versions that scored; more than one where training went on between two requests. `model="prm@VERSION"` pins one."""
        return frozenset(item.revision for item in self.items if item.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedResponse:
    index: int
    """Its place among the responses."""
    reward: float | None
    error: str | None
    answer: str | None
    """What the verifier read of it, in a vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """An answer that some responses share."""

    answer: str
    weight: float
    responses: Sequence[int]
    """Their places, the one of the highest reward first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    best: int | None
    """Place of the chosen response; None where there is none."""
    answer: str | None
    """The answer that won a vote."""
    ranking: Sequence[RankedResponse]
    votes: Sequence[Vote]
    revision: str

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        return cls(
            best=answer.get("best"),
            answer=answer.get("answer"),
            ranking=[
                RankedResponse(
                    index=one["index"], reward=one.get("reward"), error=(one.get("error") or {}).get("detail"), answer=one.get("answer")
                )
                for one in answer["ranking"]
            ],
            votes=[Vote(answer=one["answer"], weight=one["weight"], responses=one["responses"]) for one in answer.get("votes") or ()],
            revision=answer["model_revision"],
        )


def _floats(column: str | Sequence[float]) -> Sequence[float]:
    """In their shortest decimals, as JSON has them: -0.05, not -0.05000000074505806."""
    return [_short(value) for value in _unpacked(column, "f")] if isinstance(column, str) else column


def _short(value: float) -> float:
    """The shortest decimal that is this float32."""
    for digits in _DIGITS:
        found = float(f"{value:.{digits}g}")
        if array("f", (found,))[0] == value:
            return found
    return value


def _ints(column: str | Sequence[int]) -> Sequence[int]:
    return cast(Sequence[int], _unpacked(column, "i"))


def _unpacked(column: str | Sequence[float], kind: str) -> Sequence[float]:
    """Numbers, or base64 of four-byte little-endian ones."""
    if not isinstance(column, str):
        return column
    values = array(kind)
    values.frombytes(base64.b64decode(column))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _spans(columns: Mapping[str, Any], unit: str) -> Sequence[Span]:
    starts, ends = (_ints(columns.get(f"{unit}_{end}", ())) for end in ("start", "end"))
    return list(zip(starts, ends, strict=True))
