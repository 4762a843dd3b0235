"""The recipe's measurements as evaluations of its run: on the dashboard, in the report, and compared on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from recipe.evaluations import Measurement, problem_sets, samples_of, write_evaluation

from evaluation_world import Comparing
from gateway_world import world
from oprime.core.types import rollout_seed
from oprime.evaluation.folder import EvaluationFolder
from oprime.tasks.prose.teacher import problem
from oprime_cli.commands.report import write_report
from oprime_cli.evaluating.compare import compare
from report_builder import build_run, write_lines

HELDOUT = [problem("heldout", index) for index in range(4)]
"""Word problems and functions by turns."""
BEFORE = [[1, 0], [0, 0], [0, 0], [1, 1]]
AFTER = [[1, 1], [1, 0], [1, 0], [1, 1]]
"""Scores of two responses to each problem."""


def measurement(folder: Path, step: int, scores: list[list[int]]) -> Measurement:
    """What `before` or `after` leaves."""
    folder.mkdir(parents=True)
    answers = [{"kind": posed.kind, "response": "r"} for posed, several in zip(HELDOUT, scores, strict=True) for _ in several]
    verdicts = [
        {"verdict": "CORRECT" if score else "INCORRECT", "score": score, "extracted": str(score), "reason": ""}
        for several in scores
        for score in several
    ]
    write_lines(folder / "answers.jsonl", answers)
    write_lines(folder / "verdicts.jsonl", verdicts)
    return Measurement(step=step, folder=folder, judges="test")


@pytest.fixture
async def run(tmp_path: Path) -> Path:
    """A run with both measurements; it has no weights of step 0 any more."""
    run = build_run(tmp_path / "runs" / "synthetic", steps=2)
    for name, step, scores in (("before", 0, BEFORE), ("after", 60, AFTER)):
        asked = problem_sets(HELDOUT, 2, tmp_path)
        await write_evaluation(run, measurement(tmp_path / name, step, scores), asked, Comparing())
    return run


async def test_the_dashboard_lists_both_and_compares_them_by_kind_of_problem(run: Path) -> None:
    async with world(run.parent) as found:
        cards = (await found.client.get("/v1/evaluations")).json()["data"]
        names = {"first": "synthetic/step-000000", "second": "synthetic/step-000060"}
        rows = (await found.client.get("/v1/evaluations/compare", params=names)).json()["data"]
    assert {(card["name"], card["run"], card["step"]) for card in cards} == {
        ("synthetic@0", "synthetic", 0),
        ("synthetic@60", "synthetic", 60),
    }
    gains = {row["benchmark"]: (row["first"], row["second"], row["better"], row["worse"]) for row in rows if row["score"] == "avg"}
    # Word problems: 1/2 and 0, then 1 and 1/2. Functions: 0 and 1, then 1/2 and 1.
    assert gains == {"word-problems": (0.25, 0.75, 2, 0), "functions": (0.5, 0.75, 1, 0)}


async def test_the_report_shows_them_with_the_gain(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "<td>synthetic@0</td><td>word-problems</td>" in page
    assert "<td>word-problems</td><td>synthetic@0 → synthetic@60</td><td>avg</td><td>25.0 → 75.0</td><td>+50.0 [+50.0, +50.0]</td>" in page


async def test_steps_are_compared_by_name_when_their_weights_are_gone(run: Path) -> None:
    rows = {(row["benchmark"], row["score"]): row for row in compare(f"{run}@0", f"{run}@60").rows}
    assert rows["word-problems", "avg"]["difference"]["value"] == 0.5
    assert rows["functions", "pass@2"]["second"] == 1.0


async def test_samples_have_the_seeds_that_they_were_drawn_with(run: Path, tmp_path: Path) -> None:
    samples = samples_of(Measurement(step=0, folder=tmp_path / "before", judges="test"), "code", 2)
    assert [(one.problem, one.sample, one.grade.score) for one in samples] == [("0", 0, 0), ("0", 1, 0), ("1", 0, 1), ("1", 1, 1)]
    # The second function is the fourth of all held-out problems.
    assert samples[3].seed == rollout_seed(1, 3, 1)


async def test_writing_them_again_changes_nothing(run: Path, tmp_path: Path) -> None:
    folder = EvaluationFolder(run / "evaluations" / "step-000000")
    before = [path.read_bytes() for path in sorted(folder.path.rglob("*.json*"))]
    measured = Measurement(step=0, folder=tmp_path / "before", judges="test")
    await write_evaluation(run, measured, problem_sets(HELDOUT, 2, tmp_path), Comparing())
    assert [path.read_bytes() for path in sorted(folder.path.rglob("*.json*"))] == before
    settings: dict[str, Any] = json.loads((folder.path / "functions" / "settings.json").read_text())
    assert settings["target"] == {"run": "synthetic", "step": 0}
