"""Two evaluations of the same problems: the difference of their scores, paired by problem."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from oprime.core.sample_statistics import paired_difference
from oprime.evaluation.folder import EvaluationFolder
from oprime.evaluation.results import ProblemResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    rows: list[dict[str, Any]]
    """One per benchmark and score that both have."""
    left_out: dict[str, str]
    """Why a benchmark that both have was not compared."""


def compared(first: EvaluationFolder, second: EvaluationFolder, *, only: str = "", seed: int = 0) -> Comparison:
    """On all benchmarks that both have, or on `only` one of them.

    Raises SettingsError where one has no results, UnusableInputError for files that are damaged.
    """
    ours, theirs = first.results(), second.results()
    common = [name for name in ours if name in theirs and only in ("", name)]
    left_out = {name: reason for name in common if (reason := _difference(ours[name], theirs[name]))}
    rows = [
        row
        for name in common
        if name not in left_out
        for row in _rows(name, ours[name], theirs[name], first.problems(name), second.problems(name), seed)
    ]
    return Comparison(rows=rows, left_out=left_out)


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Why two results are not of the same problems; empty where they are."""
    for field, what in (("version", "versions of the benchmark"), ("problems_sha256", "problems")):
        if ours[field] != theirs[field]:
            return f"they have different {what}"
    return ""


def _rows(
    name: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    before: list[ProblemResult],
    after: list[ProblemResult],
    seed: int,
) -> list[dict[str, Any]]:
    avg = next(score for score in ours["scores"] if score.startswith("avg"))
    shared = [score for score in ours["scores"] if score in theirs["scores"] and not score.startswith("avg")]
    rows: list[dict[str, Any]] = []
    for score in (avg, *shared):
        old, new = ([problem.metric(score) for problem in problems] for problems in (before, after))
        rows.append(
            {
                "benchmark": name,
                "title": ours["title"],
                "score": "avg" if score == avg else score,
                "first": sum(old) / len(old),
                "second": sum(new) / len(new),
                "difference": asdict(paired_difference(old, new, seed=seed)),
                "better": sum(b > a for a, b in zip(old, new, strict=True)),
                "worse": sum(b < a for a, b in zip(old, new, strict=True)),
                "same_prompts": ours["prompts_sha256"] == theirs["prompts_sha256"],
            }
        )
    return rows
