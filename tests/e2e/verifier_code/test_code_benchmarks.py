"""Benchmarks of code as `oprime eval` asks and grades them: reference solutions, given as responses, are right."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from e2e.verifier_code.leet_code_solutions import SOLUTIONS
from e2e.verifier_code.test_code_datasets import DATA, few_samples, human_eval, mbpp, pytestmark  # noqa: F401 - the mark is pytest's
from oprime.core.types import Task
from oprime.core.verification import Verdict, VerificationRequest
from oprime.evaluation.benchmark import Benchmark
from oprime.evaluation.benchmarks.registry import BENCHMARKS
from oprime.evaluation.load import DataFiles, load_benchmark
from oprime_verifier.code.prompts import parse
from oprime_verifier.code.verifier import CodeVerifier


def tasks_of(benchmark: Benchmark, files: DataFiles) -> list[Task]:
    return [problem.task for problem in load_benchmark(benchmark, files, system="").problems]


def fenced(code: str) -> str:
    return f"I think so.\n```python\n{code}\n```\nDone."


def verdicts(verifier: CodeVerifier, benchmark: Benchmark, task: Task, response: str) -> tuple[Verdict, Verdict]:
    """By the verifier, and by the paper's rules."""
    assert benchmark.paper is not None
    own = task.verification(response)
    patient = {**own.options, "cpu_s": 15.0}
    asked = benchmark.paper(task, response)
    return (
        verifier.verify(VerificationRequest(kind="code", response=response, golds=own.golds, options=patient)).verdict,
        verifier.verify(
            VerificationRequest(kind="code", response=asked.response, golds=asked.golds, options={**asked.options, "cpu_s": 15.0})
        ).verdict,
    )


RIGHT = (Verdict.CORRECT, Verdict.CORRECT)


@few_samples
def test_reference_solutions_of_human_eval_are_right_by_both_rules(verifier: CodeVerifier, step: int) -> None:
    benchmark = BENCHMARKS["humaneval"]
    pairs = list(zip(tasks_of(benchmark, DataFiles([str(DATA)])), human_eval(), strict=True))[::step]
    wrong = {
        row["task_id"]: found
        for task, row in pairs
        if (found := verdicts(verifier, benchmark, task, fenced(row["prompt"] + row["canonical_solution"]))) != RIGHT
    }
    assert wrong == {}


@few_samples
def test_reference_solutions_of_mbpp_are_right_and_the_papers_rules_lose_what_is_not_in_functions(
    verifier: CodeVerifier, step: int
) -> None:
    benchmark = BENCHMARKS["mbpp"]
    pairs = list(zip(tasks_of(benchmark, DataFiles([str(DATA)])), mbpp(), strict=True))[::step]
    for task, row in pairs:
        own, paper = verdicts(verifier, benchmark, task, fenced(row["code"]))
        assert own is Verdict.CORRECT, row["task_id"]
        only_functions = all(isinstance(part, ast.FunctionDef) for part in parse(row["code"]).body)
        assert paper is Verdict.CORRECT or not only_functions, row["task_id"]


@pytest.mark.parametrize("place", [0, *(pytest.param(place, marks=pytest.mark.slow) for place in SOLUTIONS if place)])
def test_right_solutions_of_leet_code_are_right_by_both_rules(verifier: CodeVerifier, place: int) -> None:
    benchmark = BENCHMARKS["leetcode"]
    task = tasks_of(benchmark, DataFiles([str(DATA)]))[place]
    assert verdicts(verifier, benchmark, task, fenced(SOLUTIONS[place])) == RIGHT


def test_a_made_up_row_of_live_code_bench_is_judged(verifier: CodeVerifier, tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "question_id": "made_up",
        "question_content": "Print twice the number.",
        "contest_date": "2023-06-01T00:00:00",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": json.dumps([{"input": "4\n", "output": "8\n", "testtype": "stdin"}]),
        "metadata": "{}",
    }
    (tmp_path / "livecodebench.jsonl").write_text(json.dumps(row) + "\n")
    benchmark = BENCHMARKS["livecodebench"]
    (task,) = tasks_of(benchmark, DataFiles([str(tmp_path)]))
    assert verdicts(verifier, benchmark, task, fenced("print(2 * int(input()))")) == RIGHT
    assert verdicts(verifier, benchmark, task, fenced("print(2)")) == (Verdict.INCORRECT, Verdict.INCORRECT)
