"""Folders of evaluations, as `oprime eval` writes them, for tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oprime.evaluation.folder import EvaluationFolder
from oprime.evaluation.results import ProblemResult, result_of
from oprime.evaluation.samples import Grade, Sample


def write_evaluation(
    folder: Path,
    scores: Sequence[Sequence[float]],
    *,
    name: str = "demo@5",
    benchmark: str = "math500",
    problems: str = "same",
    **target: Any,
) -> None:
    """One benchmark with a problem for each list of sample scores."""
    results = [
        ProblemResult(problem=str(place), subset="", scores=tuple(of_problem), answers=tuple(int(score) for score in of_problem))
        for place, of_problem in enumerate(scores)
    ]
    samples = [
        Sample(
            problem=one.problem,
            sample=number,
            seed=0,
            response="r",
            finish_reason="stop",
            tokens=4,
            grade=Grade(verdict="CORRECT" if score else "INCORRECT", score=score),
        )
        for one in results
        for number, score in enumerate(one.scores)
    ]
    size = len(scores[0])
    result = {
        "target": {"kind": "run", "name": name, **target},
        "benchmark": benchmark,
        "title": benchmark.upper(),
        "version": 1,
        "file": "math500.json",
        "file_sha256": "0",
        "problems": len(results),
        "problems_sha256": problems,
        "prompts_sha256": "asked",
        "decoding": {"temperature": 0.3, "top_p": 0.95, "max_tokens": 64, "stop": []},
        "paper_rules": "",
        "samples_per_problem": size,
        "seed": 0,
        "judges": "test",
        **result_of(results, samples, [size], seed=0),
    }
    EvaluationFolder(folder).write(benchmark, result, results)
