"""`oprime eval` from the command line to its files, with real verifiers: recorded responses graded, voted on and compared."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chat_server import answering
from oprime_cli.main import main

DATA = Path(__file__).parents[3] / "shared" / "data"
SUMS = [("1 + 1?", "2"), ("2 + 2?", "4"), ("3 + 3?", "6")]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_lines(tmp_path / "sums.jsonl", [{"question": question, "answer": answer} for question, answer in SUMS])


def responses(name: str, *answers: list[str]) -> Path:
    """A file with the boxed answers to each problem, sample by sample."""
    rows = [
        {"problem": str(problem), "sample": number, "response": f"It is \\boxed{{{answer}}}."}
        for problem, samples in enumerate(answers)
        for number, answer in enumerate(samples)
    ]
    return write_lines(Path(name), rows)


def result(folder: str, benchmark: str = "sums") -> dict[str, Any]:
    return json.loads((Path(folder) / benchmark / "result.json").read_text())


def test_recorded_responses_are_graded_voted_on_and_compared(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 4/2 and 2.0 are the same answer as 2: it has three votes of four.
    responses("old.jsonl", ["2", "3", "4/2", "2.0"], ["5", "5", "4", "5"], ["1", "2", "3", "4"])
    responses("new.jsonl", ["2", "2", "2", "2"], ["4", "4", "4", "5"], ["1", "2", "3", "5"])
    asked = ["--tasks", "sums.jsonl", "--k", "1,2,4", "--jobs", "1"]
    assert main(["eval", "old.jsonl", *asked]) == 0
    assert "sums" in capsys.readouterr().out
    scores = {name: score["value"] for name, score in result("evaluations/old")["scores"].items()}
    # pass@2: 1 of 1; of the second, 3 pairs of 6 have the right one. maj@2 looks at samples 0, 1 and 2, 3.
    assert scores == pytest.approx(
        {"avg@4": 1 / 3, "pass@2": (1 + 0.5 + 0) / 3, "maj@2": (1 + 0.5 + 0) / 3, "pass@4": 2 / 3, "maj@4": 1 / 3}
    )
    assert main(["eval", "new.jsonl", *asked]) == 0
    assert main(["eval", "compare", "evaluations/old", "evaluations/new", "--out", "compared.json"]) == 0
    assert "evaluations/new compared with evaluations/old" in " ".join(capsys.readouterr().out.split())
    rows = {row["score"]: row for row in json.loads(Path("compared.json").read_text())["rows"]}
    assert (rows["avg"]["difference"]["value"], rows["avg"]["better"], rows["avg"]["worse"]) == (pytest.approx(0.25), 2, 0)
    assert (rows["maj@4"]["first"], rows["maj@4"]["second"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    found = json.loads(Path("evaluations/old/evaluation.json").read_text())
    assert [one["benchmark"] for one in found["results"]] == ["sums"]
    lines = Path("evaluations/old/sums/samples.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["grade"]["verdict"] for line in lines) == {"CORRECT": 4, "INCORRECT": 8}


def test_problems_without_a_response_are_said_and_other_settings_are_refused(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    responses("some.jsonl", ["2"])
    assert main(["eval", "some.jsonl", "--tasks", "sums.jsonl", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "sums: 2 samples could not be judged and count as wrong; the first is of problem 1: NOT_ASKED" in shown
    assert result("evaluations/some")["unjudged"]["count"] == 2
    assert main(["eval", "some.jsonl", "--tasks", "sums.jsonl", "--seed", "1"]) == 2
    assert "made with other settings (seed): name another --out to keep them, or add --fresh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing-here"], "is no run"),
        (["none.jsonl", "--tasks", "sums.jsonl"], "no such file"),
        (["some.jsonl"], "nothing to evaluate on"),
        (["some.jsonl", "--tasks", "none.jsonl"], "--tasks = none.jsonl: no such file"),
        (["some.jsonl", "--on", "aime2024", "--data", "."], "aime2024: none of aime.jsonl"),
        (["some.jsonl", "--tasks", "sums.jsonl", "--samples", "2", "--k", "4"], "--k 4 needs as many samples"),
        (["some.jsonl", "--tasks", "sums.jsonl", "--k", "4", "--temperature", "0"], "greedy samples are all the same"),
        (["some.jsonl", "--model", "x", "--tasks", "sums.jsonl"], "names a model of a server"),
        (["a", "b"], "evaluate one at a time"),
        (["compare", "a"], "compare takes two evaluations, not 1"),
        (["compare", "evaluations", "evaluations"], "is no run"),
    ],
)
def test_a_wrong_call_says_one_thing_and_does_nothing(tasks: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    responses("some.jsonl", ["2"])
    assert main(["eval", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("evaluations").exists()


def test_a_line_that_is_no_response_is_named(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(Path("bad.jsonl"), [{"problem": 0, "response": "\\boxed{2}"}, {"problem": 1}])
    assert main(["eval", "bad.jsonl", "--tasks", "sums.jsonl", "--jobs", "1"]) == 1
    assert "bad.jsonl, line 2 is no response (KeyError('response')): write" in capsys.readouterr().err


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA}")
@pytest.mark.parametrize("limit", [pytest.param(60, id="sample"), pytest.param(0, id="all", marks=pytest.mark.slow)])
def test_recorded_responses_to_gsm8k_get_the_accuracy_that_was_published(tasks: Path, limit: int) -> None:
    """OpenAI's own labels of the solutions of its 175B model with a verifier, problem by problem."""
    model = "175b_verification"
    rows = [json.loads(line) for line in (DATA / "gsm8k_model_solutions.jsonl").read_text().splitlines()]
    order = {json.loads(line)["question"]: number for number, line in enumerate((DATA / "gsm8k_test.jsonl").read_text().splitlines(), 1)}
    recorded = [{"problem": str(order[row["question"]]), "response": row[model]["solution"]} for row in rows if row["question"] in order]
    labels = {str(order[row["question"]]): float(row[model]["is_correct"]) for row in rows if row["question"] in order}
    write_lines(Path("175b.jsonl"), recorded)
    asked = ["--on", "gsm8k", "--data", str(DATA), "--jobs", "1", *(["--limit", str(limit)] if limit else [])]
    assert main(["eval", "175b.jsonl", *asked]) == 0
    samples = [json.loads(line) for line in Path("evaluations/175b/gsm8k/samples.jsonl").read_text().splitlines()]
    assert len(samples) == (limit or 1319)
    assert {one["problem"]: one["grade"]["score"] or 0.0 for one in samples} == {one["problem"]: labels[one["problem"]] for one in samples}
    published = sum(labels[one["problem"]] for one in samples) / len(samples)
    assert result("evaluations/175b", "gsm8k")["scores"]["avg@1"]["value"] == pytest.approx(published)


def test_a_server_is_evaluated_by_the_name_of_its_only_model(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(["\\boxed{2}", "\\boxed{4}", "\\boxed{5}"]) as url:
        assert main(["eval", url, "--tasks", "sums.jsonl", "--jobs", "1", "--concurrency", "1"]) == 0
    folder = f"evaluations/127.0.0.1-{url.rpartition(':')[2]}-tiny"
    assert result(folder)["target"] == {"kind": "url", "name": f"{url} tiny", "url": url, "model": "tiny"}
    assert result(folder)["scores"]["avg@1"]["value"] == pytest.approx(2 / 3)
    # All is there: nobody is asked any more, and nobody is there to be asked.
    assert main(["eval", url, "--model", "tiny", "--tasks", "sums.jsonl", "--jobs", "1"]) == 0
    assert f"every sample and number is in {folder}" in capsys.readouterr().out
