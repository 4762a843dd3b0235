"""For verl: `custom_reward_function.path=.../oprime_verifier/shims/verl.py`, `custom_reward_function.name=compute_score`.

With the batch reward manager, name `compute_score_batch`: all responses are judged in parallel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oprime.core.verification import Outcome, VerificationRequest
from oprime_verifier.shims.client import number_of, request_of, shared_client


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    kind: str = "",
    unscored: float | None = None,
    **_kwargs: Any,
) -> dict[str, Any]:
    """Judge one response. `kind` and `unscored` come from `custom_reward_function.reward_kwargs`.

    Raises UnscoredError for a response that cannot be judged, unless `unscored` is the number to use.
    """
    request = _request(data_source, solution_str, ground_truth, extra_info, kind)
    return _result(shared_client().verify([request])[0], unscored)


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    kind: str = "",
    unscored: float | None = None,
    **_kwargs: Any,
) -> list[dict[str, Any]]:
    """Judge a batch in parallel, in order."""
    infos = [None] * len(solution_strs) if extra_infos is None else extra_infos
    rows = zip(data_sources, solution_strs, ground_truths, infos, strict=True)
    outcomes = shared_client().verify([_request(*row, kind) for row in rows])
    return [_result(outcome, unscored) for outcome in outcomes]


def _request(data_source: str, response: str, ground_truth: Any, extra_info: Mapping[str, Any] | None, kind: str) -> VerificationRequest:
    info = extra_info or {}
    options = info.get("options")
    return request_of(
        response,
        ground_truth,
        kind=kind or str(info.get("kind") or ""),
        data_source=str(data_source),
        options=dict(options) if isinstance(options, Mapping) else {},
    )


def _result(outcome: Outcome, unscored: float | None) -> dict[str, Any]:
    score = number_of(outcome, unscored)
    return {"score": score, "acc": score, "pred": outcome.answer, "verdict": outcome.verdict.value}
