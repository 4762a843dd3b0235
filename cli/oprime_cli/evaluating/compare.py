"""Two evaluations of the same problems: the difference of their scores, paired by problem."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from oprime.core.sample_statistics import paired_difference
from oprime.evaluation.folder import EvaluationFolder
from oprime_cli.evaluating.targets import find_target
from oprime_cli.running.failures import UsageError


def compare(first: str, second: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """One row per benchmark and score that both have. Raises UsageError where nothing can be compared."""
    one, other = evaluation_folder(first), evaluation_folder(second)
    ours, theirs = one.results(), other.results()
    common = [name for name in ours if name in theirs]
    if not common:
        raise UsageError(f"{first} has results of {', '.join(ours)}, and {second} of {', '.join(theirs)}: no benchmark is in both")
    return [row for name in common for row in _rows(name, one, other, ours[name], theirs[name], seed)]


def evaluation_folder(text: str) -> EvaluationFolder:
    """A folder of results, or where those of RUN[@STEP] or MODEL are."""
    path = Path(text)
    if any(path.glob("*/result.json")):
        return EvaluationFolder(path)
    return EvaluationFolder(find_target(text).folder)


def _rows(
    name: str, one: EvaluationFolder, other: EvaluationFolder, ours: dict[str, Any], theirs: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    _require_comparable(name, one, other, ours, theirs)
    before, after = one.problems(name), other.problems(name)
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


def _require_comparable(name: str, one: EvaluationFolder, other: EvaluationFolder, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raises UsageError for other problems, or another version of them."""
    for field, what in (("version", "versions of the benchmark"), ("problems_sha256", "problems")):
        if ours[field] != theirs[field]:
            raise UsageError(
                f"{name}: {one.path} and {other.path} have different {what} ({str(ours[field])[:12]} and {str(theirs[field])[:12]}), "
                "so they cannot be compared: evaluate both on the same file with the same --limit"
            )
