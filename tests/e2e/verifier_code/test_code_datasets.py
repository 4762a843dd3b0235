"""Reference solutions of real data sets pass, and wrong programs made from them fail."""

import ast
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from e2e.verifier_code.leet_code_solutions import SOLUTIONS
from e2e.verifier_code.mutants import mutants
from e2e.verifier_code.plain_harness import observe
from oprime_verifier.code.formats import parse_tests

DATA = Path(__file__).parents[4] / "shared" / "data"
SAMPLE = 12
"""Every so manieth problem is in the fast suite."""

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"the data sets are not at {DATA}")
few_samples = pytest.mark.parametrize("step", [pytest.param(3 * SAMPLE, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)])
samples = pytest.mark.parametrize("step", [pytest.param(SAMPLE, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)])


def human_eval() -> list[dict[str, Any]]:
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def mbpp() -> list[dict[str, Any]]:
    return json.loads((DATA / "mbpp.json").read_text())


def leet_code() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "leetcode.jsonl").read_text().splitlines()]


@samples
def test_reference_solutions_of_human_eval_pass(ask: Any, step: int) -> None:
    failed = [
        row["task_id"] for row in human_eval()[::step] if ask(row, row["prompt"] + row["canonical_solution"], cpu_s=15.0).score != 1.0
    ]
    assert failed == []


@samples
def test_completions_of_human_eval_pass(ask: Any, step: int) -> None:
    failed = [row["task_id"] for row in human_eval()[::step] if ask(row, row["canonical_solution"], cpu_s=15.0).score != 1.0]
    assert failed == []


@samples
def test_reference_solutions_of_mbpp_pass(ask: Any, step: int) -> None:
    failed = [row["task_id"] for row in mbpp()[::step] if ask(row, row["code"], cpu_s=15.0).score != 1.0]
    assert failed == []


@samples
def test_tests_of_leet_code_are_read(step: int) -> None:
    rows = leet_code()[::step]
    suites = [parse_tests(json.dumps(row)) for row in rows]
    assert all(suite.asserts is not None and suite.asserts.names == ("Solution",) for suite in suites)
    assert [suite.count for suite in suites] == [row["test"].count("\nassert ") for row in rows]
    assert all(parse_tests(row["test"]).asserts is not None for row in rows)


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[] if place < 40 or place == 141 else pytest.mark.slow) for place in SOLUTIONS]
)
def test_right_solutions_of_leet_code_pass(ask: Any, place: int) -> None:
    row = leet_code()[place]
    outcome = ask({"prompt": row["prompt"], "test": row["test"]}, SOLUTIONS[place])
    assert (outcome.verdict, len(outcome.tests)) == ("CORRECT", row["test"].count("\nassert "))
    assert ask(row["test"], SOLUTIONS[place]).verdict == "CORRECT"


FLAT = sorted(set(SOLUTIONS) - {141})
"""Without the linked list, whose outputs have no text to compare."""


@pytest.mark.parametrize("place", [pytest.param(place, marks=[] if place < 30 else pytest.mark.slow) for place in FLAT])
def test_mutants_of_leet_code_fail(ask: Any, place: int) -> None:
    row, program = leet_code()[place], SOLUTIONS[place]
    name = program.split("def ")[1].split("(")[0]
    plain = f"\n\ndef {name}(**keywords):\n    return Solution().{name}(**keywords)\n"
    source = row["test"].replace("my_solution = Solution()", "").replace("my_solution.", "")
    changed, paid, weak = judged_mutants(ask, [(row["test"], program, USUAL, name, source)], plain)
    assert changed > 0
    assert paid == []
    assert weak == []


USUAL = "".join(f"from {module} import *\n" for module in ("typing", "math", "collections", "itertools", "bisect")) + "import math\n"


def judged_mutants(ask: Any, problems: Iterable[tuple[Any, str, str, str, str]], end: str = "") -> tuple[int, list[str], list[str]]:
    """How many changed an output, which of them were paid, and for which of those the data set's own tests are too weak.

    `end` goes behind a program for the plain harness.
    """
    changed, paid, weak = 0, [], []
    for tests, program, preamble, name, source in problems:
        right = observe(program + end, preamble, name, source)
        if right is None:
            print(f"{name}: its reference solution is too slow for the plain harness")  # noqa: T201 - the figure of the report
            continue
        assert right["passed"], name
        for kind, mutant in mutants(program):
            seen = observe(mutant + end, preamble, name, source)
            if seen is not None and seen["calls"] == right["calls"]:
                continue
            changed += 1
            if ask(tests, mutant, cpu_s=1.0, wall_s=8.0).score != 0.0:
                (weak if seen is not None and seen["passed"] else paid).append(f"{name}: {kind}")
    return changed, paid, weak


@few_samples
def test_mutants_of_human_eval_fail(ask: Any, step: int) -> None:
    problems = []
    for row in human_eval()[::step]:
        # Only the function under test is changed: helpers of the prompt are the task's.
        tree = ast.parse(row["prompt"] + row["canonical_solution"])
        function = next(part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == row["entry_point"])
        problems.append(
            (row, ast.unparse(function), row["prompt"] + "    pass\n", row["entry_point"], row["test"] + "\ncheck(candidate)\n")
        )
    changed, paid, weak = judged_mutants(ask, problems)
    print(f"HumanEval: {changed} mutants changed an output; {len(weak)} satisfy the tests: {weak}")  # noqa: T201 - the figure of the report
    assert changed > 10
    assert paid == []


@few_samples
def test_mutants_of_mbpp_fail(ask: Any, step: int) -> None:
    problems = []
    for row in mbpp()[::step]:
        suite = parse_tests(json.dumps(row))
        assert suite.asserts is not None
        source = "\n".join([*row["test_imports"], *row["test_list"]])
        name = next(name for name in suite.asserts.names if f"def {name}" in row["code"])
        problems.append((row, row["code"], "", name, source))
    changed, paid, weak = judged_mutants(ask, problems)
    print(f"MBPP: {changed} mutants changed an output; {len(weak)} satisfy the tests: {weak}")  # noqa: T201 - the figure of the report
    assert changed > 10
    assert paid == []
