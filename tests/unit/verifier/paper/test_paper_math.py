"""The paper's grading of mathematics, rule by rule; each case was worked out from the authors' scripts by hand."""

from pathlib import Path

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime.evaluation.benchmarks.registry import BENCHMARKS
from oprime.evaluation.load import DataFiles, load_benchmark
from oprime_verifier.math.read.extract import final_text
from oprime_verifier.math.verifier import verify_math
from oprime_verifier.paper.equality import boxed_equal, harness_equal
from oprime_verifier.paper.extraction import boxed_answer, harness_answer, plainly
from oprime_verifier.paper.verifier import verify_paper_math

DATA = Path(__file__).parents[5] / "shared" / "data"


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("0.5", "50", True),  # a factor of 100 either way
        ("5000", "50", True),
        ("500", "50", False),
        ("3.1416", "3.1415", True),  # relative tolerance 1e-4
        ("3.142", "3.1415", False),
        ("1,000", "1{,}000", True),
        ("$18", "18", True),
        ("18\\%", "18", True),
        ("1010_2", "1010", True),  # the base is dropped
        ("x_1", "x_1", False),  # an index that is no base is never right
        ("(1,2)", "[1,2]", False),
        ("[1,2]", "{1,2}", True),
        ("(0.5, 1/2)", "(50, 0.5)", True),
        ("3, -2", "-2, 3", False),  # a bare list keeps its order
        ("\\frac{1}{2}", "0.5", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("3.14", "\\pi", True),
        ("314", "\\pi", False),  # a factor of 100 is for numbers alone
        ("x=5", "5", False),
        ("5 \\text{ cm}", "5", False),
        ("", "5", False),
        ("A", "a", True),
    ],
)
def test_equality_of_the_authors_scripts(answer: str, gold: str, equal: bool) -> None:
    assert boxed_equal(answer, gold) is equal


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("0.5", "50", True),
        ("50\\%", "0.5", True),
        ("I pick B", "B", True),
        ("(1,2)", "[1,2]", True),  # brackets of any kind
        ("x=5", "5", True),
        ("5", "k=5", True),
        ("abc=5", "5", False),
        ("y=2x+1", "2x+1=y", True),
        ("\\frac{1}{3}", "0.33333", True),
        ("2x", "x+x", True),
        ("7", "8", False),
    ],
)
def test_equality_of_the_harness(answer: str, gold: str, equal: bool) -> None:
    assert harness_equal(answer, gold) is equal


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("It is \\fbox{7}", "7"),
        ("Answer: 12", "12"),
        ("the answer is: 3, or answer: 4", "4"),
        ("\\boxed{1} but the answer is: 3", "3"),  # what stands before the last marker is lost
        ("\\boxed{1", "\\boxed{1"),
        ("seven", "seven"),
    ],
)
def test_the_answer_that_the_authors_scripts_take(response: str, answer: str) -> None:
    assert boxed_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("So \\boxed{1.50}", "1.50"),
        ("So \\boxed{x = \\dfrac12}.", "\\frac{1}{2}"),
        ("Final Answer: The final answer is $3$. I hope it is correct.", "3"),
        ("The answer is 1/2.", "\\frac{1}{2}"),
        ("I see 3 apples and 1,200 pears", "1200"),
        ("nothing", ""),
        ("\\boxed{90^{\\circ}}", "90"),
        ("\\boxed{12 \\text{ km}}", "12"),
        ("\\boxed{2.0}", "2"),
    ],
)
def test_the_answer_that_the_harness_takes(response: str, answer: str) -> None:
    assert harness_answer(response, units=False) == answer


def test_the_harness_strikes_units_out_but_not_for_minerva() -> None:
    assert (plainly("12 km", units=False), plainly("12 km", units=True)) == ("12", "12km")


def judged(response: str, gold: str, **options: object) -> Verdict:
    return verify_paper_math(VerificationRequest(kind="paper_math", response=response, golds=(gold,), options=options)).verdict


def test_letters_of_a_phrase_are_cut_off_the_answers_of_contests() -> None:
    # Both are letters of "The final answer is", so nothing is left of the answer.
    assert judged("\\boxed{ne}", "ne") is Verdict.CORRECT
    assert judged("\\boxed{ne}", "ne", stripped=True) is Verdict.NO_ANSWER
    assert judged("The final answer is 7. I hope it is correct.", "7", stripped=True) is Verdict.CORRECT


def test_a_task_that_cannot_be_graded_is_no_fault_of_the_response() -> None:
    assert judged("\\boxed{1}", " ") is Verdict.BAD_TASK
    assert judged("\\boxed{1}", "1", rules="mine") is Verdict.BAD_TASK


GRADED_DIFFERENTLY = {"minerva_math": {"139"}}
"""Golds that the paper's grading calls wrong when they are the answer: it writes an answer plainly twice, and a gold once, and only the
second time is `\\text{...}` at the end cut off with all behind it."""


@pytest.mark.parametrize("name", ["aime2024", "amc", "math500", "minerva_math", "olympiadbench", "gsm8k"])
def test_gold_answers_given_as_responses_are_all_right(name: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the data sets are not at {DATA}")
    benchmark = BENCHMARKS[name]
    wrong, wrong_by_the_paper = [], set()
    for problem in load_benchmark(benchmark, DataFiles([str(DATA)]), system="").problems:
        response = f"The answer is \\boxed{{{final_text(problem.task.ground_truth)}}}"
        if verify_math(problem.task.verification(response)).verdict is not Verdict.CORRECT:
            wrong.append(problem.id)
        if benchmark.paper is not None and verify_paper_math(benchmark.paper(problem.task, response)).verdict is not Verdict.CORRECT:
            wrong_by_the_paper.add(problem.id)
    assert (wrong, wrong_by_the_paper) == ([], GRADED_DIFFERENTLY.get(name, set()))


@pytest.mark.parametrize("rules", ["boxed", "harness"])
@pytest.mark.parametrize("part", ["\\text{", "\\boxed{", "{", "x=", "(1,", "answer: ", "\\frac", "1.0", "\n"])
def test_a_long_hostile_response_is_judged_at_once(rules: str, part: str) -> None:
    for response in (part * 20_000, f"\\boxed{{{part * 20_000}}}"):
        assert judged(response, "1", rules=rules) in (Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.CORRECT)
