import pytest
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.types import Outcome, OutcomeStatus
from oprime_verifier.math_text import clean, plain_rational, plain_text, unsafe_to_evaluate
from oprime_verifier.math_verifier import last_boxed, verify_math


def judged(response: str, ground_truth: str) -> tuple[OutcomeStatus, float | None]:
    outcome = verify_math(response, ground_truth)
    return outcome.status, outcome.score


RIGHT = (OutcomeStatus.SCORED, 1.0)
WRONG = (OutcomeStatus.SCORED, 0.0)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        ("42.", "42"),
        ("+42", "42"),
        ("1,234,567", "1234567"),
        ("042", "42"),
        ("0.5", "\\frac{1}{2}"),
        ("\\dfrac{1}{2}", "1/2"),
        ("\\frac12", "0.50"),
        ("2/4", "\\frac{1}{2}"),
        ("1\\frac{1}{2}", "\\frac{3}{2}"),
        ("1 1/2", "1.5"),
        ("-\\frac{3}{4}", "\\frac{-3}{4}"),
        ("0.\\overline{3}", "\\frac{1}{3}"),
        ("0.1\\overline{6}", "\\frac16"),
        ("1010_2", "10"),
        ("204", "204_5"),
        ("6.022 \\times 10^{23}", "6.022e23"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x = 5", "5"),
        ("$7$", "7"),
        ("\u2212\u0037", "-7"),
        ("\u00bd", "0.5"),
        ("2\u03c0", "2\\pi"),
        ("\\text{Tuesday}", "tuesday"),
        ("(B)", "\\text{B}"),
        ("[1,2)", "[1, 2)"),
        ("\\{3, 1\\}", "\\{1, 3\\}"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
    ],
)
def test_equal_answers_score_one(answer: str, gold: str) -> None:
    assert judged(f"So the result is \\boxed{{{answer}}}.", gold) == RIGHT


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("-42", "42"),
        ("1000001", "1000000"),
        ("123456789012345678901234567890", "123456789012345678901234567891"),
        ("2 \\times 10^{-7}", "1 \\times 10^{-7}"),
        ("500", "5"),
        ("0.3", "0.\\overline{3}"),
        ("1010_2", "1010_3"),
        ("\\frac{2}{3}", "\\frac{3}{2}"),
        ("(1,2)", "[1,2]"),
        ("silent", "listen"),
        ("A", "B"),
        ("a", "A"),
        ("\\sqrt{3}", "\\sqrt{2}"),
        ("x^2", "x^3"),
    ],
)
def test_different_answers_score_zero(answer: str, gold: str) -> None:
    assert judged(f"\\boxed{{{answer}}}", gold) == WRONG


def test_the_last_box_counts() -> None:
    assert judged("First \\boxed{3}, but no: \\boxed{\\frac{4}{2}}.", "2") == RIGHT
    assert judged("First \\boxed{2}, but no: \\boxed{3}.", "2") == WRONG


def test_a_box_that_was_cut_off_does_not_hide_the_one_before() -> None:
    assert last_boxed("\\boxed{2} and \\boxed{\\frac{1}{") == "2"


def test_a_box_may_hold_braces() -> None:
    assert last_boxed("\\boxed{\\frac{1}{2}} done") == "\\frac{1}{2}"
    assert last_boxed("\\boxed{\\{1\\}}") == "\\{1\\}"
    assert last_boxed("no box") is None


def test_gsm8k_solutions_are_read_on_both_sides() -> None:
    assert judged("3 + 4 = 7\n#### 7", "He has 3 and gets 4.\n#### 7") == RIGHT
    assert judged("3 + 4 = 8\n#### 8", "#### 7") == WRONG
    assert judged("#### $1,200", "1200") == RIGHT


def test_a_ground_truth_may_be_a_whole_solution() -> None:
    assert judged("\\boxed{9}", "Squaring gives \\boxed{9}.") == RIGHT


def test_without_a_box_the_stated_answer_counts() -> None:
    assert judged("We add them up. The final answer is $\\frac{3}{4}$. I hope it is correct.", "0.75") == RIGHT
    assert judged("The answer is 12", "13") == WRONG


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no answer"),
        ("I do not know, sorry", "no answer"),
        ("\\boxed{}", "empty"),
        ("####", "empty"),
        ("<think> the answer is \\boxed{5}", "<think>"),
        ("\\boxed{" + "1+" * 3000 + "1}", "characters"),
        ("\\boxed{7^{1000000000}}", "exponent"),
        ("\\boxed{9^{9^{9^9}}}", "powers of powers"),
        ("\\boxed{100000!}", "factorial"),
        ("\\boxed{" + "(" * 100 + "1" + ")" * 100 + "}", "nested"),
        ("\\boxed{\\frac{}{}}", "parsed"),
    ],
)
def test_a_response_without_a_gradable_answer_is_invalid_and_says_why(response: str, reason: str) -> None:
    outcome = verify_math(response, "5")
    assert (outcome.status, outcome.score) == (OutcomeStatus.INVALID, 0.0)
    assert reason in outcome.reason


def test_a_finished_thought_may_hold_other_boxes() -> None:
    assert judged("<think> maybe \\boxed{4}? </think> It is \\boxed{5}.", "5") == RIGHT


@pytest.mark.parametrize("gold", ["", "   ", "\\boxed{}", "####", "\\frac{1}{", "???"])
def test_a_ground_truth_that_cannot_be_parsed_is_an_error_and_never_a_score(gold: str) -> None:
    outcome = verify_math("\\boxed{5}", gold)
    assert (outcome.status, outcome.score) == (OutcomeStatus.ERROR, None)
    assert "ground truth" in outcome.reason
    assert "cannot be parsed" in outcome.reason


def test_the_graded_text_is_reported() -> None:
    assert verify_math("\\boxed{ \\dfrac{1}{2} }", "0.5") == Outcome(status=OutcomeStatus.SCORED, score=1.0, answer="\\frac{1}{2}")


@pytest.mark.parametrize("payload", ["__import__('os').getpid()", "exec('x=1')", "(lambda: 5)()", "[].__class__", "5 if True else 4"])
def test_python_in_an_answer_is_never_worth_a_point(payload: str) -> None:
    assert judged(f"\\boxed{{{payload}}}", "5") != RIGHT


def test_a_long_response_is_judged_by_its_end() -> None:
    assert judged("so we go on and on. " * 5000 + "\\boxed{5}", "5") == RIGHT


@given(st.integers(-(10**20), 10**20), st.integers(1, 10**9))
def test_every_way_to_write_a_ratio_has_the_same_value(upper: int, lower: int) -> None:
    written = [
        f"{upper}/{lower}" if upper >= 0 else f"-{-upper}/{lower}",
        f"\\frac{{{upper}}}{{{lower}}}",
        f"\\dfrac{{{upper}}}{{{lower}}}",
    ]
    values = {plain_rational(clean(text)) for text in written}
    assert len(values) == 1
    assert None not in values


@given(st.integers(-(10**30), 10**30))
def test_thousands_separators_do_not_change_an_integer(number: int) -> None:
    assert plain_rational(f"{number:,}") == plain_rational(str(number))


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_two_integers_are_equal_exactly_when_they_are(left: int, right: int) -> None:
    assert judged(f"\\boxed{{{left}}}", str(right)) == (RIGHT if left == right else WRONG)


@given(st.text(max_size=200))
def test_reading_any_text_plainly_raises_nothing(text: str) -> None:
    cleaned = clean(text)
    plain_rational(cleaned)
    plain_text(cleaned)
    unsafe_to_evaluate(cleaned)
    last_boxed(text)


def test_division_by_zero_has_no_value() -> None:
    assert plain_rational("\\frac{1}{0}") is None
    assert plain_rational("1/0") is None
