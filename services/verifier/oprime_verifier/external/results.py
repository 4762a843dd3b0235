"""From what somebody else's verifier returned to an Outcome. Pure.

A result that breaks the contract raises BrokenContractError, which callers turn into INFRA_ERROR: it never becomes a score.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from oprime.core.verification import UNSCORED, Outcome, Verdict, no_answer, scored, unscored
from oprime.runtime.errors import OprimeError

MAX_COMPONENTS = 64
_ANSWER_KEYS = ("answer", "extracted", "pred")
_REASON_KEYS = ("reason", "explanation")
_NO_VALUE = "None: it does not apply to this response"


BROKEN_CONTRACT = "broken_contract"
"""Flag of an INFRA_ERROR that another try would repeat."""


class BrokenContractError(OprimeError):
    """A verifier returned what cannot be a judgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Rewards from `low` to `high` become scores from 0 to 1."""

    low: float = 0.0
    high: float = 1.0
    clip: bool = False

    def score(self, reward: float) -> float:
        if not math.isfinite(reward):
            raise BrokenContractError(f"it gave {reward}, which is no number to learn from; a verifier that cannot tell returns None")
        if not self.low <= reward <= self.high and not self.clip:
            raise BrokenContractError(
                f"it gave {reward:g}, outside [{self.low:g}, {self.high:g}]: set its `range` to the rewards it can give, or `clip = true`"
            )
        kept = min(max(reward, self.low), self.high)
        return (kept - self.low) / (self.high - self.low)


UNIT = Scale()


def outcome_of(result: object, scale: Scale = UNIT) -> Outcome:
    """The outcome that `result` means: an Outcome, None, a truth value, a number, a mapping or an rllm RewardOutput."""
    if isinstance(result, Outcome):
        return passing(result)
    if result is None:
        return unscored(Verdict.NOT_APPLICABLE, f"the verifier returned {_NO_VALUE}")
    if isinstance(result, Mapping):
        return _of_mapping(result, scale)
    if hasattr(result, "reward") and hasattr(result, "is_correct"):
        return _of_reward_output(result, scale)
    return scored(scale.score(number(result)))


def passing(outcome: Outcome) -> Outcome:
    """`outcome`, not to be remembered where it tells a failure: the next try may do better."""
    return replace(outcome, cacheable=False) if outcome.verdict is Verdict.INFRA_ERROR else outcome


def number(value: object) -> float:
    """A truth value, a number, or an array or tensor that holds one. Raises BrokenContractError for anything else."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except (ValueError, RuntimeError, TypeError) as error:
            raise BrokenContractError(f"it returned a {type(value).__name__} of several values for one response") from error
    if not isinstance(value, Real):
        raise BrokenContractError(f"it returned a {type(value).__name__}, not a number, True, False, None, a mapping or an Outcome")
    try:
        return float(value)
    except OverflowError as error:
        raise BrokenContractError("it returned a whole number too large to be a reward") from error


def finite_numbers(values: object) -> dict[str, float]:
    """The finite numbers of a mapping by name; whatever else it holds is left out."""
    found: dict[str, float] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Real) and abs(value) <= sys.float_info.max:  # pyright: ignore[reportOperatorIssue]
            found[str(name)] = float(value)
    return found


def single(values: object, what: str) -> object:
    """The only element of a list, tuple, array or tensor: the result for the one response that was asked about."""
    listed = values.tolist() if hasattr(values, "tolist") else values  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(listed, list | tuple):
        raise BrokenContractError(f"{what} is a {type(values).__name__}, not a list with one entry per response")
    if len(listed) != 1:
        raise BrokenContractError(f"{what} has {len(listed)} entries for 1 response")
    return listed[0]


def _of_mapping(result: Mapping[Any, Any], scale: Scale) -> Outcome:
    details = _details(result)
    if "verdict" in result:
        return _of_verdict(result, details, scale)
    if "score" not in result:
        raise BrokenContractError(f"it returned a mapping with the keys {sorted(map(str, result))}: `score` or `verdict` is missing")
    if result["score"] is None:
        reason = details.pop("reason", "") or f"the verifier returned the score {_NO_VALUE}"
        return unscored(Verdict.NOT_APPLICABLE, reason, **details)
    return scored(scale.score(number(result["score"])), **details)


def _of_verdict(result: Mapping[Any, Any], details: dict[str, Any], scale: Scale) -> Outcome:
    try:
        verdict = Verdict(str(result["verdict"]).removeprefix("VERDICT_"))
    except ValueError as error:
        raise BrokenContractError(f"it gave the verdict {result['verdict']!r}; verdicts are {', '.join(Verdict)}") from error
    score = result.get("score")
    if verdict in UNSCORED or (score is not None):
        return _consistent(verdict, None if score is None else scale.score(number(score)), details)
    if verdict is Verdict.PARTIAL:
        raise BrokenContractError("it gave the verdict PARTIAL without a score")
    if verdict is Verdict.NO_ANSWER:
        return no_answer(details.pop("reason", ""), **details)
    return Outcome(verdict=verdict, score=1.0 if verdict is Verdict.CORRECT else 0.0, **details)


def _consistent(verdict: Verdict, score: float | None, details: dict[str, Any]) -> Outcome:
    try:
        return passing(Outcome(verdict=verdict, score=score, **details))
    except ValueError as error:
        raise BrokenContractError(f"it contradicts itself: {error}") from error


def _of_reward_output(result: Any, scale: Scale) -> Outcome:
    metadata = result.metadata if isinstance(getattr(result, "metadata", None), Mapping) else {}
    components = {} if result.is_correct is None else {"is_correct": float(bool(result.is_correct))}
    if result.reward is None:
        return unscored(Verdict.NOT_APPLICABLE, f"the verifier returned the reward {_NO_VALUE}")
    details = _details(metadata)
    return scored(scale.score(number(result.reward)), **{**details, "components": {**details.get("components", {}), **components}})


def _details(result: Mapping[Any, Any]) -> dict[str, Any]:
    """Answer, reason, flags and the other numbers of a mapping."""
    details: dict[str, Any] = {
        field: str(result[key]) for field, keys in (("answer", _ANSWER_KEYS), ("reason", _REASON_KEYS)) for key in keys if result.get(key)
    }
    named = result.get("components")
    extra = (
        named
        if isinstance(named, Mapping)
        else {key: value for key, value in result.items() if key not in ("score", "verdict", "cacheable")}
    )
    if numbers := finite_numbers(extra):
        details["components"] = dict(list(numbers.items())[:MAX_COMPONENTS])
    if isinstance(cacheable := result.get("cacheable"), bool):
        details["cacheable"] = cacheable
    if isinstance(flags := result.get("flags"), list | tuple):
        details["flags"] = tuple(map(str, flags))
    return details
