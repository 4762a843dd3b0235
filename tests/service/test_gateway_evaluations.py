"""Evaluations over HTTP: those of runs and of models, and two of them compared."""

from pathlib import Path
from typing import Any

import pytest

from evaluation_files import write_evaluation
from gateway_world import is_problem, world


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with two evaluations of a run, one of a model beside it, and what is none."""
    runs = tmp_path / "runs"
    write_evaluation(runs / "demo/evaluations/training-000005", [[0.0, 1.0], [0.0, 0.0]], run="demo", step=5, during_training=True)
    write_evaluation(runs / "demo/evaluations/step-000010", [[1.0, 1.0], [0.0, 1.0]], name="demo@10", run="demo", step=10)
    write_evaluation(tmp_path / "evaluations/tiny", [[1.0], [1.0], [0.0]], name="tiny", problems="others")
    broken = runs / "demo/evaluations/half"
    broken.mkdir()
    (broken / "evaluation.json").write_text('{"target": {"name": "half"}, "results": [{}]}')
    (runs / "demo/evaluations/empty").mkdir()
    return runs


async def cards(runs: Path) -> dict[str, dict[str, Any]]:
    async with world(runs) as found:
        answer = await found.client.get("/v1/evaluations")
    assert answer.status_code == 200, answer.text
    return {card["id"]: card for card in answer.json()["data"]}


async def test_evaluations_of_runs_and_of_models_are_listed(runs: Path) -> None:
    found = await cards(runs)
    assert found.keys() == {"demo/training-000005", "demo/step-000010", "tiny"}
    first = found["demo/training-000005"]
    assert (first["name"], first["run"], first["step"], first["during_training"]) == ("demo@5", "demo", 5, True)
    (result,) = first["results"]
    assert {name: score["value"] for name, score in result["scores"].items()} == {"avg@2": 0.25, "pass@2": 0.5, "maj@2": 0.0}
    assert (result["problems"], result["temperature"], result["paper"], result["unjudged"]) == (2, 0.3, None, 0)
    assert found["tiny"]["step"] is None


async def test_without_evaluations_the_list_is_empty(tmp_path: Path) -> None:
    assert await cards(tmp_path / "runs") == {}


async def test_two_evaluations_are_compared_problem_by_problem(runs: Path) -> None:
    async with world(runs) as found:
        answer = await found.client.get("/v1/evaluations/compare", params={"first": "demo/training-000005", "second": "demo/step-000010"})
        assert answer.status_code == 200, answer.text
        rows = {row["score"]: row for row in answer.json()["data"]}
        assert (rows["avg"]["first"], rows["avg"]["second"], rows["avg"]["difference"]["value"]) == (0.25, 0.75, 0.5)
        assert (rows["avg"]["better"], rows["avg"]["worse"], rows["avg"]["same_prompts"]) == (2, 0, True)
        others = (await found.client.get("/v1/evaluations/compare", params={"first": "tiny", "second": "demo/step-000010"})).json()
        assert (others["data"], others["left_out"]) == ([], {"math500": "they have different problems"})


@pytest.mark.parametrize("name", ["demo/none", "../secret", "demo/../../x", "a/b/c", "", "demo/empty"])
async def test_what_is_no_evaluation_is_not_found(runs: Path, name: str) -> None:
    async with world(runs) as found:
        answer = await found.client.get("/v1/evaluations/compare", params={"first": name, "second": "tiny"})
    is_problem(answer, 404, "GET /v1/evaluations lists them")


async def test_a_damaged_evaluation_is_no_crash(runs: Path) -> None:
    (runs / "demo/evaluations/step-000010/math500/problems.jsonl").write_text("{")
    async with world(runs) as found:
        answer = await found.client.get("/v1/evaluations/compare", params={"first": "demo/training-000005", "second": "demo/step-000010"})
    is_problem(answer, 422, "cannot be compared", "problems.jsonl")
