"""Wraps what a user has into `verify(request) -> Outcome`. Runs in the plug-in's own worker process.

Exceptions and results that break the contract are INFRA_ERROR with the reason, never a score of 0.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from oprime.core.verification import Outcome, Verdict, VerificationRequest, unscored
from oprime.runtime.errors import SettingsError
from oprime_verifier.external.results import BROKEN_CONTRACT, UNIT, BrokenContractError, Scale, number, outcome_of, single
from oprime_verifier.external.styles import GOLD_NAMES, Parameters, style_of

Verify = Callable[[VerificationRequest], Outcome]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How to call a user's object."""

    style: str = "auto"
    scale: Scale = UNIT
    gold_parameter: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question to a user's function."""

    request: VerificationRequest
    gold: str
    parameters: Parameters
    how: Adaptation

    def given(self, **values: Any) -> dict[str, Any]:
        """Those of `values`, and of the configured arguments, that the function takes by name."""
        return self.parameters.accepted({**values, **self.how.arguments})

    def columns(self) -> dict[str, str]:
        """Metadata and ground truth by name, as a row of a data set would have them."""
        names = (self.how.gold_parameter,) if self.how.gold_parameter else GOLD_NAMES
        about = {"data_source": self.request.data_source, "prompt": self.request.prompt}
        return {**about, **dict.fromkeys(names, self.gold), **self.request.metadata}

    def details(self) -> dict[str, Any]:
        """What frameworks call extra information."""
        request = self.request
        return {"task_id": request.task_id, "group_id": request.group_id, "prompt": request.prompt, **request.options, **request.metadata}


def adapt(target: object, how: Adaptation, loop: "AsyncLoop") -> Verify:
    """`target` as a verifier; its coroutines run on `loop`. Raises SettingsError for what cannot be called with what a verifier knows."""
    subject = target() if inspect.isclass(target) else target
    batch = getattr(subject, "verify_batch", None)
    if how.style == "object" or (how.style == "auto" and callable(batch)):
        if not callable(batch):
            raise SettingsError(f"a {type(subject).__name__} has no method verify_batch(requests): give it one, or name another style")
        return _safely(_of_object(subject, batch, loop))
    function = subject if callable(subject) else getattr(subject, "verify", None)
    if not callable(function):
        raise SettingsError(f"a {type(subject).__name__} is neither a function nor an object with verify_batch(requests)")
    return _safely(_of_function(function, how, loop))


def _of_object(subject: object, batch: Callable[..., Any], loop: "AsyncLoop") -> Verify:
    kinds = tuple(getattr(subject, "kinds", ()))

    def verify(request: VerificationRequest) -> Outcome:
        known = request if not kinds or request.kind in kinds else replace(request, kind=kinds[0])
        return outcome_of(single(loop.result(batch([known])), "verify_batch's result"))

    return verify


def _of_function(function: Callable[..., Any], how: Adaptation, loop: "AsyncLoop") -> Verify:
    parameters = Parameters.of(function)
    style = style_of(parameters) if how.style == "auto" else how.style
    ask = _STYLES[style]
    _check_parameters(style, parameters, how)
    reads_all = style == "request" or "golds" in parameters.names

    def with_gold(request: VerificationRequest, gold: str) -> Outcome:
        return ask(
            lambda *args, **kwargs: loop.result(function(*args, **kwargs)), Call(request=request, gold=gold, parameters=parameters, how=how)
        )

    def verify(request: VerificationRequest) -> Outcome:
        golds = request.golds or (request.tests,)
        return with_gold(request, golds[0]) if reads_all else best_of(with_gold(request, gold) for gold in golds)

    return verify


def best_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Any accepted answer is right: the first full score, else a failure, else the best score."""
    best: Outcome | None = None
    for outcome in outcomes:
        if outcome.score == 1:
            return outcome
        best = outcome if best is None or _rank(outcome) > _rank(best) else best
    assert best is not None  # noqa: S101 - there is at least one gold, if an empty one
    return best


def _rank(outcome: Outcome) -> float:
    """A comparison that failed might have been the right one, so it outweighs a low score."""
    return outcome.score if outcome.score is not None else 2.0


def _ask_request(function: Callable[..., Any], call: Call) -> Outcome:
    return outcome_of(function(call.request, **call.parameters.accepted(call.how.arguments)), call.how.scale)


def _ask_plain(function: Callable[..., Any], call: Call) -> Outcome:
    """`fn(response, gold, **meta)`: the first two by position, the others by name."""
    request, parameters = call.request, call.parameters
    positional: list[Any] = [request.response]
    if _second_is_gold(parameters) and not call.how.gold_parameter:
        positional.append(request.golds if parameters.positional[1] == "golds" else call.gold)
    taken = set(parameters.positional[: len(positional)])
    known = {
        **call.details(),
        **call.columns(),
        "golds": request.golds,
        "tests": request.tests,
        "options": dict(request.options),
        "metadata": dict(request.metadata),
        "seed": request.seed,
        "request_id": request.request_id,
        "kind": request.kind,
    }
    if parameters.takes_any:
        known = {name: value for name, value in known.items() if name not in GOLD_NAMES or name in parameters.names}
    named = {name: value for name, value in call.given(**known).items() if name not in taken}
    return outcome_of(function(*positional, **named), call.how.scale)


def _second_is_gold(parameters: Parameters) -> bool:
    """A second parameter with a default and another name, like `strict=False`, is a setting."""
    second = "".join(parameters.positional[1:2])
    return second in GOLD_NAMES or (second in parameters.required and second not in ("prompt", "data_source"))


def _ask_verl(function: Callable[..., Any], call: Call) -> Outcome:
    given = call.given(
        data_source=call.request.data_source, solution_str=call.request.response, ground_truth=call.gold, extra_info=call.details()
    )
    return outcome_of(function(**given), call.how.scale)


def _ask_verl_batch(function: Callable[..., Any], call: Call) -> Outcome:
    given = call.given(
        data_sources=[call.request.data_source],
        solution_strs=[call.request.response],
        ground_truths=[call.gold],
        extra_infos=[call.details()],
    )
    return outcome_of(single(function(**given), "its result"), call.how.scale)


def _ask_trl(function: Callable[..., Any], call: Call) -> Outcome:
    request = call.request
    return _ask_trl_with(
        function, call, [{"role": "user", "content": request.prompt}], [{"role": "assistant", "content": request.response}]
    )


def _ask_trl_text(function: Callable[..., Any], call: Call) -> Outcome:
    return _ask_trl_with(function, call, call.request.prompt, call.request.response)


def _ask_trl_with(function: Callable[..., Any], call: Call, prompt: object, completion: object) -> Outcome:
    columns = {name: [value] for name, value in call.columns().items() if name != "prompt"}
    helpers = {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}
    kept = helpers if call.parameters.takes_any else call.parameters.accepted(helpers)
    given = call.given(**columns, **kept, prompts=[prompt], completions=[completion])
    return outcome_of(single(function(**given), "its result"), call.how.scale)


def _ask_openrlhf(function: Callable[..., Any], call: Call) -> Outcome:
    request = call.request
    given = call.given(queries=[request.prompt + request.response], prompts=[request.prompt], labels=[call.gold])
    return openrlhf_outcome(function(**given), call.how.scale)


def openrlhf_outcome(result: object, scale: Scale) -> Outcome:
    """`{"rewards", "scores", "extra_logs"}` of one response, or its rewards alone. Scores are in [0, 1]; rewards may hold more."""
    if not isinstance(result, Mapping):
        return outcome_of(single(result, "its result"), scale)
    values = result.get("scores", result.get("rewards"))
    if values is None:
        raise BrokenContractError(f"it returned a mapping with the keys {sorted(map(str, result))}: `rewards` is missing")
    outcome = outcome_of(single(values, "`scores`" if "scores" in result else "`rewards`"), scale)
    rewards = result.get("rewards")
    components = {} if rewards is None or outcome.score is None else {"reward": number(single(rewards, "`rewards`"))}
    return replace(outcome, components={**outcome.components, **components})


def _ask_rllm(function: Callable[..., Any], call: Call) -> Outcome:
    request = call.request
    task_info = {"problem": request.prompt, "question": request.prompt, "ground_truth": call.gold, "data_source": request.data_source}
    return outcome_of(function(**call.given(task_info={**task_info, **call.details()}, action=request.response)), call.how.scale)


_STYLES: Mapping[str, Callable[[Callable[..., Any], Call], Outcome]] = {
    "request": _ask_request,
    "plain": _ask_plain,
    "verl": _ask_verl,
    "verl_batch": _ask_verl_batch,
    "trl": _ask_trl,
    "trl_text": _ask_trl_text,
    "openrlhf": _ask_openrlhf,
    "rllm": _ask_rllm,
}

_NEVER_KNOWN = {
    "completion_ids": "token ids",
    "prompt_ids": "token ids",
    "tokenizer": "a tokenizer",
    "reward_model_tokenizer": "a tokenizer",
    "environments": "TRL environments",
}


def _check_parameters(style: str, parameters: Parameters, how: Adaptation) -> None:
    """Refuse at the start what every call would fail on."""
    for name in sorted(parameters.required - set(how.arguments)):
        if name in _NEVER_KNOWN and style != "plain":
            raise SettingsError(f"it needs {name}, but a verifier gets no {_NEVER_KNOWN[name]}: give the parameter a default")
    if how.gold_parameter and not (how.gold_parameter in parameters.names or parameters.takes_any):
        raise SettingsError(f"gold_parameter is {how.gold_parameter!r}, but its parameters are {', '.join(sorted(parameters.names))}")
    if style in ("plain", "request") and not parameters.positional:
        raise SettingsError("it takes no arguments by position; a plain verifier is fn(response, gold)")
    if style == "plain" and parameters.positional[0] in ("gold", "golds", "ground_truth", "label", "reference", "expected"):
        raise SettingsError(f"its first parameter is {parameters.positional[0]}; a plain verifier is fn(response, gold)")


def _safely(verify: Verify) -> Verify:
    def judged(request: VerificationRequest) -> Outcome:
        try:
            return verify(request)
        except KeyboardInterrupt:
            raise
        except BrokenContractError as error:
            reason = f"verifier {request.kind} broke its contract: {error}"
            return unscored(Verdict.INFRA_ERROR, reason, cacheable=False, flags=(BROKEN_CONTRACT,))
        except BaseException as error:  # noqa: BLE001 - it is other people's code, and some of their exceptions are no Exception
            reason = f"verifier {request.kind} raised {type(error).__name__}: {error}"
        return unscored(Verdict.INFRA_ERROR, reason, cacheable=False)

    return judged


def _ignore(*_args: object, **_kwargs: object) -> None:
    """What TRL would log; a verifier has nowhere to log it."""


class AsyncLoop:
    """Runs coroutines on one event loop for the life of the process, so that clients made in one call serve the next."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def result(self, value: Any) -> Any:
        """`value`, awaited where it can be."""
        if not inspect.isawaitable(value):
            return value
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_finish(value))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None


async def _finish(value: Awaitable[T]) -> T:
    return await value
