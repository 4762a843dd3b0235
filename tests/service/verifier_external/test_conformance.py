"""The conformance suite against targets that keep the contract and targets that do not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oprime.runtime.errors import SettingsError
from oprime_cli.main import main
from oprime_verifier.conformance.cases import code_cases, math_cases
from oprime_verifier.conformance.checks import Session, keeps_deadlines, wrong_shape
from oprime_verifier.conformance.runner import Report, run
from oprime_verifier.conformance.targets import Answer as Told
from oprime_verifier.conformance.targets import open_target
from service.verifier_external.conftest import Answer, Server

REWARDS = f"{Path(__file__).parent}/user_rewards.py"


async def report_of(target: str, **settings: Any) -> Report:
    opened = open_target(target, **settings)
    try:
        return await run(opened, kind=settings.get("kind", ""))
    finally:
        await opened.close()


def status(report: Report, name: str) -> str:
    return next(result.status for result in report.results if result.name == name)


def failed(report: Report) -> list[str]:
    return [result.name for result in report.results if result.status == "failed"]


@pytest.mark.parametrize("function", ["exact", "compute_score", "Batched"])
async def test_a_function_that_keeps_the_contract_passes(function: str) -> None:
    report = await report_of(f"{REWARDS}:{function}")
    assert failed(report) == []
    assert report.passed


async def test_a_function_that_dies_takes_nothing_else_with_it() -> None:
    report = await report_of(f"{REWARDS}:dies_on_hostile_text")
    assert failed(report) == []


async def test_a_function_that_hangs_is_stopped_at_the_deadline() -> None:
    target = open_target(f"{REWARDS}:hangs")
    try:
        session = Session(target=target, described=await target.describe())
        assert (await keeps_deadlines(session, "plugin")).startswith("INFRA_ERROR")
    finally:
        await target.close()


async def test_a_math_verifier_that_pays_everything_fails() -> None:
    report = await report_of(f"{REWARDS}:pays_everything", kind="math")
    assert not report.passed
    assert {"nothing wrong is paid", "nothing is paid without a ground truth", "hostile text passes as data"} <= set(failed(report))
    assert report.categories["integer"]["all"] == sum(case.category == "integer" for case in math_cases())


def judging(judge: Any) -> Answer:
    async def answer(_request: Request, message: Any) -> Response:
        return JSONResponse({"data": judge(message["inputs"])})

    return answer


def fine(inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"request_id": item.get("request_id", ""), "verdict": "INCORRECT", "score": 0.0} for item in inputs]


@pytest.mark.parametrize(
    ("judge", "broken"),
    [
        (fine, None),
        (lambda inputs: fine(inputs)[::-1], "a batch keeps its order"),
        (lambda inputs: fine(inputs)[:1], "a batch keeps its order"),
        (lambda inputs: [{"verdict": "INCORRECT", "score": 0.0} for _ in inputs], "request ids are echoed"),
        (lambda inputs: [{**item, "score": None} for item in fine(inputs)], "a score is absent exactly where it must be"),
        (lambda inputs: [{**item, "verdict": "INFRA_ERROR"} for item in fine(inputs)], "a score is absent exactly where it must be"),
        (lambda inputs: [{**item, "score": 2} for item in fine(inputs)], "a score is absent exactly where it must be"),
        (lambda inputs: [{**item, "verdict": "WRONG"} for item in fine(inputs)], "a score is absent exactly where it must be"),
    ],
)
async def test_a_webhook_is_tested_over_http(server: Server, judge: Any, broken: str | None) -> None:
    server.answers = [judging(judge)]
    report = await report_of(f"{server.url}/judge")
    assert report.passed == (broken is None), report.results
    assert broken is None or broken in failed(report)
    assert server.seen[0].path == "/judge"


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(SettingsError, match="'reward' is no target"):
        open_target("reward")


@pytest.mark.parametrize(
    ("verdict", "score", "good"),
    [
        ("CORRECT", 1.0, True),
        ("CORRECT", None, False),
        ("UNDECIDED", None, True),
        ("UNDECIDED", 0.0, False),
        ("PARTIAL", float("nan"), False),
    ],
)
def test_verdict_and_score_fit_together(verdict: str, score: float | None, good: bool) -> None:
    assert (wrong_shape(Told(request_id="r", verdict=verdict, score=score)) == "") == good


def test_the_suite_has_cases_of_every_category() -> None:
    cases = math_cases()
    assert len(cases) >= 120
    assert len({case.category for case in cases}) == 26
    assert len({case.id for case in cases}) == len(cases)
    assert len({case.id for case in code_cases()}) >= 20


def test_the_command_prints_a_report_and_says_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert main(["verifier", "test", f"{REWARDS}:exact", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "request ids are echoed" in shown
    assert "0 failed" in shown
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["passed"]
    assert main(["verifier", "test", f"{REWARDS}:pays_everything", "--kind", "exact"]) == 1


def test_the_command_names_a_target_that_cannot_be_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verifier", "test", "127.0.0.1:1"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
    assert main(["verifier", "test", f"{REWARDS}:no_such_function"]) == 2
    assert "no_such_function" in capsys.readouterr().err
