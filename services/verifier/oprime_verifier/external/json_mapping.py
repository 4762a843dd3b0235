"""The JSON of our HTTP API, from a client's side: `{"inputs": [request]}` is answered by `{"data": [outcome]}`, in order."""

from collections.abc import Mapping, Sequence
from typing import Any

from oprime.core.verification import Outcome, TestResult, Verdict, VerificationRequest, VerifierIdentity
from oprime_verifier.external.results import BrokenContractError, finite_numbers, outcome_of


def requests_to_json(requests: Sequence[VerificationRequest]) -> dict[str, Any]:
    return {"inputs": [request_to_json(request) for request in requests]}


def request_to_json(request: VerificationRequest) -> dict[str, Any]:
    """Fields that are empty are left out."""
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "kind": request.kind,
        "response": request.response,
        "golds": list(request.golds),
        "tests": request.tests,
        "options": dict(request.options),
        "prompt": request.prompt,
        "task_id": request.task_id,
        "group_id": request.group_id,
        "data_source": request.data_source,
        "deadline_s": request.deadline_s,
        "seed": request.seed,
        "metadata": dict(request.metadata),
    }
    return {name: value for name, value in fields.items() if value or name in ("kind", "response")}


def outcomes_from_json(answer: object, requests: Sequence[VerificationRequest]) -> list[Outcome]:
    """Raises BrokenContractError for an answer that does not fit the requests."""
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, list):
        raise BrokenContractError('it answered without a list `data`; the answer to {"inputs": [...]} is {"data": [...]}')
    if len(data) != len(requests):
        raise BrokenContractError(f"it answered {len(data)} outcomes to {len(requests)} requests")
    return [_answer_to(request, item) for request, item in zip(requests, data, strict=True)]


def _answer_to(request: VerificationRequest, item: object) -> Outcome:
    if not isinstance(item, Mapping) or "verdict" not in item:
        raise BrokenContractError("it answered an outcome without `verdict`")
    echoed = item.get("request_id") or request.request_id
    if echoed != request.request_id:
        raise BrokenContractError(f"it answered request {echoed!r} when asked {request.request_id!r}")
    return outcome_from_json(item)


def outcome_from_json(item: Mapping[str, Any]) -> Outcome:
    """Only `verdict` is needed, and `score` where the verdict does not say it. Raises BrokenContractError."""
    outcome = outcome_of(
        {name: item[name] for name in ("verdict", "score", "extracted", "explanation", "components", "flags") if name in item}
    )
    return Outcome(
        verdict=outcome.verdict,
        score=outcome.score,
        reason=outcome.reason,
        answer=outcome.answer,
        components=outcome.components if isinstance(item.get("components"), Mapping) else {},
        tests=tuple(_test(test) for test in _listed(item.get("tests"))),
        timings=finite_numbers(item.get("timings")),
        verifier=_identity(item.get("verifier")),
        flags=outcome.flags,
        cacheable=outcome.cacheable and item.get("cacheable") is not False,
    )


def _test(test: Any) -> TestResult:
    try:
        return TestResult(
            index=int(test["index"]),
            verdict=Verdict(str(test["verdict"]).removeprefix("VERDICT_")),
            cpu_s=float(test.get("cpu_s", 0)),
            wall_s=float(test.get("wall_s", 0)),
            peak_bytes=int(test.get("peak_bytes", 0)),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BrokenContractError(f"it answered a test result that cannot be read: {type(error).__name__}: {error}") from error


def _identity(value: Any) -> VerifierIdentity:
    if not isinstance(value, Mapping):
        return VerifierIdentity(name=str(value or ""))
    names = ("name", "version", "config_hash", "sandbox_profile")
    return VerifierIdentity(**{name: str(value.get(name, "")) for name in names})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
