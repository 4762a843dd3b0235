"""An evaluation asks what is missing, judges what is new, and keeps what it has when it must stop."""

from pathlib import Path

import pytest

from evaluation_world import Comparing, Table, problem
from oprime.core.types import Task, rollout_seed
from oprime.core.verification import VerificationRequest
from oprime.evaluation.benchmark import Decoding
from oprime.evaluation.evaluate import Evaluation, Plan
from oprime.evaluation.samples import NOT_ASKED, Sample, SampleFile
from oprime.runtime.errors import OprimeError, UnusableInputError

PROBLEMS = (problem("one", "1", index=0), problem("two", "2", index=1))


def plan(**changes: object) -> Plan:
    return Plan(**{"problems": PROBLEMS, "samples": 2, "decoding": Decoding(), "judges": "v1", **changes})


async def run(path: Path, table: Table, judging: Comparing, wanted: Plan) -> list[Sample]:
    noted: list[int] = []
    file = SampleFile(path)
    try:
        return await Evaluation(wanted, table, judging, file, noted.append).run()
    finally:
        file.close()


async def test_every_sample_is_made_with_a_seed_of_its_own_and_judged(tmp_path: Path) -> None:
    table = Table({"one": ["1", "3"], "two": ["5", "#2"]})
    samples = await run(tmp_path / "s", table, Comparing(), plan(seed=4))
    assert [(one.problem, one.sample, one.grade.score) for one in samples] == [
        ("one", 0, 1.0),
        ("two", 0, 0.0),
        ("one", 1, 0.0),
        ("two", 1, 1.0),
    ]
    assert sorted(table.asked) == sorted(
        (one.id, number, rollout_seed(4, -1 - one.index, number)) for one in PROBLEMS for number in range(2)
    )
    assert len({seed for _, _, seed in table.asked}) == 4


async def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = Table({"one": ["1", OprimeError("the server is out")], "two": ["2", "2"]})
    with pytest.raises(OprimeError, match="the server is out"):
        await run(tmp_path / "s", out, Comparing(), plan(at_once=1))
    back = Table({"one": ["-", "1"], "two": ["-", "2"]})
    judging = Comparing()
    samples = await run(tmp_path / "s", back, judging, plan())
    assert [one.response for one in samples] == ["1", "2", "1", "2"]
    assert sorted(back.asked)[0][:2] == ("one", 1)
    assert len(back.asked) == judging.judged == 2


async def test_more_samples_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    await run(tmp_path / "s", Table({"one": ["1"], "two": ["2"]}), Comparing(), plan(samples=1))
    table = Table({"one": ["-", "1"], "two": ["-", "2"]})
    await run(tmp_path / "s", table, Comparing(), plan(samples=2))
    assert sorted(number for _, number, _ in table.asked) == [1, 1]


async def test_what_could_not_be_judged_is_judged_again_and_not_sampled_again(tmp_path: Path) -> None:
    table = Table({"one": ["1", "1"], "two": ["2", "3"]})
    failed = await run(tmp_path / "s", table, Comparing(failing={"3"}), plan())
    assert [one.failed for one in failed] == [False, False, False, True]
    judging = Comparing()
    samples = await run(tmp_path / "s", table, judging, plan())
    assert (samples[3].grade.score, judging.judged, len(table.asked)) == (0.0, 1, 4)


async def test_another_verifier_judges_the_same_responses_again(tmp_path: Path) -> None:
    table = Table({"one": ["1", "1"], "two": ["2", "2"]})
    await run(tmp_path / "s", table, Comparing(), plan())
    judging = Comparing()
    samples = await run(tmp_path / "s", table, judging, plan(judges="v2"))
    assert (judging.judged, len(table.asked), {one.judges for one in samples}) == (4, 4, {"v2"})


async def test_a_prompt_that_cannot_be_sampled_from_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    table = Table({"one": [UnusableInputError("9 tokens too long")], "two": ["2"]})
    first, second = await run(tmp_path / "s", table, Comparing(), plan(samples=1))
    assert (first.grade.verdict, first.grade.reason, first.grade.points) == (NOT_ASKED, "9 tokens too long", 0.0)
    assert second.grade.score == 1.0
    await run(tmp_path / "s", table, Comparing(), plan(samples=1))
    assert len(table.asked) == 2


async def test_a_response_ends_before_a_stop_text(tmp_path: Path) -> None:
    table = Table({"one": ["1\n###\nProblem: 2"], "two": ["2"]})
    wanted = plan(samples=1, decoding=Decoding(stop=("<|eot|>", "\n###\nProblem: ")))
    first, _ = await run(tmp_path / "s", table, Comparing(), wanted)
    assert (first.response, first.grade.score) == ("1", 1.0)


async def test_the_papers_grading_stands_beside(tmp_path: Path) -> None:
    def paper(task: Task, response: str) -> VerificationRequest:
        return VerificationRequest(kind="exact", response=response, golds=(task.ground_truth, "100"))

    samples = await run(tmp_path / "s", Table({"one": ["100"], "two": ["2"]}), Comparing(), plan(samples=1, paper=paper))
    assert [(one.grade.points, one.paper and one.paper.points) for one in samples] == [(0.0, 1.0), (1.0, 1.0)]
