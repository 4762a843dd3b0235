"""From samples to numbers, by hand."""

import pytest

from evaluation_world import Comparing, problem
from oprime.evaluation.results import ProblemResult, metric_names, problem_results, result_of
from oprime.evaluation.samples import NOT_ASKED, Grade, Sample

PROBLEMS = (problem("one", "1", subset="easy"), problem("two", "2", subset="hard"))


def sample(name: str, number: int, answer: str, score: float | None, *, paper: float | None = None, verdict: str = "") -> Sample:
    grade = Grade(verdict=verdict or ("CORRECT" if score else "INCORRECT"), score=score, answer=answer)
    other = None if paper is None else Grade(verdict="CORRECT" if paper else "INCORRECT", score=paper, answer=answer)
    return Sample(
        problem=name,
        sample=number,
        seed=0,
        response=answer,
        finish_reason="length" if number else "stop",
        tokens=4,
        grade=grade,
        paper=other,
    )


SAMPLES = [
    *(sample("one", number, answer, score) for number, (answer, score) in enumerate([("1", 1.0), ("3", 0.0), ("3", 0.0), ("1", 1.0)])),
    *(sample("two", number, answer, score) for number, (answer, score) in enumerate([("5", 0.0), ("2", 1.0), ("2", 1.0), ("", 0.0)])),
]


async def test_scores_are_means_over_problems() -> None:
    results = await problem_results(PROBLEMS, SAMPLES, Comparing())
    assert [one.answers for one in results] == [(0, 1, 1, 0), (0, 1, 1, None)]
    scores = result_of(results, SAMPLES, [1, 2, 4], seed=0)["scores"]
    # Two of four are right in both: one pair of six has no right one. The majority of one is a tie, which its earliest answer, 1, wins;
    # of two, it is 2. Of pairs side by side: one has 1 3, 3 1 (right, wrong); two has 5 2, 2 - (wrong, right).
    assert {name: score["value"] for name, score in scores.items()} == pytest.approx(
        {"avg@4": 0.5, "pass@2": 5 / 6, "maj@2": 0.5, "pass@4": 1.0, "maj@4": 1.0}
    )
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())


async def test_results_are_also_given_by_part() -> None:
    results = await problem_results(PROBLEMS, SAMPLES, Comparing())
    parts = result_of(results, SAMPLES, [], seed=0)["subsets"]
    assert {name: (part["problems"], part["scores"]["avg@4"]["value"]) for name, part in parts.items()} == {
        "easy": (1, 0.5),
        "hard": (1, 0.5),
    }


async def test_what_could_not_be_judged_is_listed_and_counts_as_wrong() -> None:
    samples = [sample("one", 0, "1", None, verdict="UNDECIDED"), sample("two", 0, "", None, verdict=NOT_ASKED)]
    results = await problem_results(PROBLEMS, samples, Comparing())
    found = result_of(results, samples, [1], seed=0)
    assert found["scores"]["avg@1"]["value"] == 0.0
    assert (found["unjudged"]["count"], [row["problem"] for row in found["unjudged"]["listed"]]) == (2, ["one", "two"])
    assert found["samples"] == {"count": 2, "verdicts": {"UNDECIDED": 1, NOT_ASKED: 1}, "cut": 0, "mean_tokens": 4.0}


async def test_the_difference_to_the_papers_grading_is_reported() -> None:
    samples = [sample("one", 0, "100", 0.0, paper=1.0), sample("two", 0, "2", 1.0, paper=1.0)]
    results = await problem_results(PROBLEMS, samples, Comparing())
    paper = result_of(results, samples, [1], seed=0)["paper"]
    assert (paper["score"]["value"], paper["difference"]["value"], paper["differing_samples"]) == (1.0, 0.5, 1)
    assert [(row["problem"], row["verdict"], row["paper_verdict"]) for row in paper["listed"]] == [("one", "INCORRECT", "CORRECT")]


async def test_programs_have_no_majority() -> None:
    code = [ProblemResult(problem="a", subset="", scores=(1.0, 0.0))]
    samples = [sample("a", 0, "", 1.0), sample("a", 1, "", 0.0)]
    assert list(result_of(code, samples, [1, 2], seed=0)["scores"]) == ["avg@2", "pass@2"]


def test_k_beyond_the_samples_is_not_reported() -> None:
    assert metric_names(4, [1, 2, 8], voted=True) == ["avg@4", "pass@2", "maj@2"]
    with pytest.raises(ValueError, match="is no metric"):
        ProblemResult(problem="a", subset="", scores=(1.0,)).metric("best@3")
