import pytest

from oprime.core.verification import Outcome, Verdict, VerificationRequest
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read.extract import extract
from oprime_verifier.math.verifier import verify_math


def judged(response: str, *golds: str, **options: object) -> Outcome:
    return verify_math(VerificationRequest(kind="math", response=response, golds=golds, options=options))


def answer_of(response: str) -> str:
    return extract(response, MathOptions()).answers[0]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\fbox{5}", "5"),
        ("\\boxed 5", "5"),
        ("\\boxed{ \\boxed{7} }", " \\boxed{7} "),
        ("\\boxed{2} and \\boxed{\\frac{1}{", "2"),
        ("First \\boxed{3}, but no: \\boxed{4}.", "4"),
        ("\\boxed{5}\\text{ cm}", "5\\text{ cm}"),
        ("\\boxed{45}^\\circ", "45^\\circ"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 3\n#### $1,200", "$1,200"),
        ("The answer is 5.", "5"),
        ("The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The final answer is $12$. I hope it is correct.", "$12$"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("**Answer:** 3.5", "3.5"),
        ("Work.\nA: 18", "18"),
        ("Hence\n\\[ x = 5 \\]", "x = 5"),
        ("We add.\nTherefore, the sum is $12$.", "$12$"),
        ("$\\frac12$", "$\\frac12$"),
        ("42", "42"),
    ],
)
def test_the_answer_is_what_the_response_sets_apart(response: str, answer: str) -> None:
    assert answer_of(response) == answer


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no answer"),
        ("I do not know how to do this, sorry", "no answer"),
        ("There are 5 apples and 7 pears. I am not sure.", "no answer"),
        ("\\boxed{}", "empty"),
        ("\\boxed{ }", "empty"),
        ("the value 5 appears, but I give up: \\boxed{}", "empty"),
        ("####", "empty"),
        ("\\boxed{5", "no answer"),
        ("<think> the answer is \\boxed{5}", "<think>"),
        ("<think>a</think> then <think> \\boxed{5}", "<think>"),
        ("\\boxed{" + "1+" * 3000 + "1}", "characters"),
        ("\\boxed{" + "(" * 100 + "1" + ")" * 100 + "}", "nested"),
        ("\\boxed{1e999999}", "exponent"),
        ("\\boxed{" + "7" * 4001 + "}", "digits"),
    ],
)
def test_a_response_without_a_gradable_answer_scores_zero_and_says_why(response: str, reason: str) -> None:
    outcome = judged(response, "5")
    assert (outcome.verdict, outcome.score) == (Verdict.NO_ANSWER, 0.0)
    assert reason in outcome.reason


def test_only_what_follows_the_reasoning_is_graded() -> None:
    assert judged("<think>it is \\boxed{5}</think> It is \\boxed{6}", "5").verdict is Verdict.INCORRECT
    assert judged("<think>it is \\boxed{5}</think> It is \\boxed{6}", "6").verdict is Verdict.CORRECT
    assert judged("it is \\boxed{5}</think> And nothing follows, sadly.", "5").verdict is Verdict.NO_ANSWER


def test_a_prompt_that_opens_the_reasoning_makes_the_response_close_it() -> None:
    assert judged("\\boxed{5}", "5", starts_in_reasoning=True).verdict is Verdict.NO_ANSWER
    assert judged("hm </think> \\boxed{5}", "5", starts_in_reasoning=True).verdict is Verdict.CORRECT


def test_the_tags_of_reasoning_are_a_setting() -> None:
    assert judged("<scratch> \\boxed{5}", "5").verdict is Verdict.CORRECT
    assert judged("<scratch> \\boxed{5}", "5", reasoning_tags=["scratch"]).verdict is Verdict.NO_ANSWER


def test_the_last_box_wins_unless_all_must_say_the_same() -> None:
    assert judged("\\boxed{3}. Therefore \\boxed{5}.", "5").verdict is Verdict.CORRECT
    assert judged("\\boxed{5}. Therefore \\boxed{3}.", "5").verdict is Verdict.INCORRECT
    assert judged("\\boxed{3}. Therefore \\boxed{5}.", "5", boxes="same").verdict is Verdict.NO_ANSWER


def test_a_hedge_is_not_paid() -> None:
    assert judged("\\boxed{5} or \\boxed{6}", "6").verdict is Verdict.INCORRECT
    assert judged("\\boxed{5 \\text{ or } 6}", "6").verdict is Verdict.INCORRECT
    assert judged("\\boxed{5, 6}", "6").verdict is Verdict.INCORRECT
    assert judged("The answer is 5 or 6.", "5").verdict is Verdict.INCORRECT


@pytest.mark.parametrize(
    "response",
    [
        "x=\\boxed{1} and y=\\boxed{2}",
        "\\boxed{1}, \\boxed{2}",
        "$\\boxed{1}$ and $\\boxed{2}$",
        "\\(\\boxed{1} \\quad \\text{and} \\quad \\boxed{2}\\)",
    ],
)
def test_boxes_side_by_side_are_the_parts_of_a_list(response: str) -> None:
    assert judged(response, "1,2").verdict is Verdict.CORRECT
    assert judged(response, "1,3").verdict is Verdict.INCORRECT


def test_a_unit_behind_the_box_belongs_to_the_answer() -> None:
    assert judged("\\boxed{5}\\text{ cm}", "5\\text{ cm}").verdict is Verdict.CORRECT
    assert judged("\\boxed{5}\\text{ cm}", "5\\text{ m}").verdict is Verdict.INCORRECT


def test_without_a_box_prose_may_be_worth_nothing_by_choice() -> None:
    assert judged("$5$", "5").verdict is Verdict.CORRECT
    assert judged("$5$", "5", unmarked="none").verdict is Verdict.NO_ANSWER


def test_a_long_response_is_judged_by_its_end() -> None:
    assert judged("so we go on and on. " * 5000 + "\\boxed{5}", "5").verdict is Verdict.CORRECT
    assert judged("so we go on and on. " * 5000 + "The answer is 5.", "5").verdict is Verdict.CORRECT


def test_the_graded_text_is_reported() -> None:
    assert judged("\\boxed{ \\dfrac{1}{2} }", "0.5").answer == "\\frac{1}{2}"
