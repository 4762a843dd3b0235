"""What `oprime eval`, or a run itself, found out on benchmarks and files of tasks: every score, and what the last gained on the first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.evaluation.compare import compared
from oprime.evaluation.folder import RESULT, EvaluationFolder
from oprime.evaluation.of_run import EVALUATIONS, step_of
from oprime.runtime.errors import UnusableInputError
from oprime_cli.evaluating.tables import interval, per_cent

Cells = Mapping[str, str]
"""A row for people, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmarks:
    """What the report shows of a run's evaluations."""

    scores: Sequence[Cells] = ()
    """One row per evaluation and benchmark."""
    gains: Sequence[Cells] = ()
    """For each score of a benchmark that was asked twice or more: the last evaluation compared with the first, problem by problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluated:
    folder: EvaluationFolder
    results: Mapping[str, Mapping[str, Any]]
    """By benchmark."""


def benchmarks_of(run: Path) -> Benchmarks:
    """From a run's folder. Raises UnusableInputError for a damaged file."""
    paths = {path.parent.parent for path in (run / EVALUATIONS).glob(f"*/*/{RESULT}")}
    in_order = [EvaluationFolder(path) for path in sorted(paths, key=lambda path: (step_of(path.name) or 0, path.name))]
    try:
        found = [_Evaluated(folder=folder, results=folder.results()) for folder in in_order]
        names = dict.fromkeys(name for one in found for name in one.results)
        return Benchmarks(scores=list(_scores(found)), gains=[row for name in names for row in _gains(name, found)])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise UnusableInputError(f"{run / EVALUATIONS} holds a damaged evaluation ({error!r}): remove it, or evaluate again") from error


def _scores(found: Sequence[_Evaluated]) -> Iterator[Cells]:
    for one in found:
        for result in one.results.values():
            yield {
                "evaluated": _name(result),
                "benchmark": result["title"],
                "problems": f"{result['problems']:,}",
                "scores": "; ".join(f"{name} {interval(score)}" for name, score in result["scores"].items()),
            }


def _name(result: Mapping[str, Any]) -> str:
    target = result["target"]
    return target["name"] + (" (during training)" if target.get("during_training") else "")


def _gains(benchmark: str, found: Sequence[_Evaluated]) -> Iterator[Cells]:
    having = [one for one in found if benchmark in one.results]
    if len(having) < 2:
        return
    first, last = having[0], having[-1]
    for row in compared(first.folder, last.folder, only=benchmark).rows:
        yield {
            "benchmark": row["title"],
            "between": f"{_name(first.results[benchmark])} → {_name(last.results[benchmark])}",
            "score": row["score"],
            "values": f"{per_cent(row['first'])} → {per_cent(row['second'])}",
            "difference": interval(row["difference"], sign=True),
            "problems": f"{row['better']:,} / {row['worse']:,}",
        }
