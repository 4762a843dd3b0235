"""Answers in the dress that models give them: commands, packages, units and bases as they are written outside textbooks."""

# ruff: noqa: RUF001 - some rows are about characters that look alike

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.verifier import verify_math

YES, NO = True, False


def is_right(answer: str, gold: str) -> bool:
    outcome = verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True}))
    return outcome.verdict is Verdict.CORRECT


def cases(*rows: tuple[str, str, bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("answer", "gold", "expected"), rows)


@cases(
    ("\\color{red}{42}", "42", YES),
    ("{\\color{red}42}", "42", YES),
    ("{\\color{red} 42}", "42", YES),
    ("\\textcolor{red}{42}", "42", YES),
    ("\\color{blue}{\\frac12}", "0.5", YES),
    ("\\textcolor[rgb]{1,0,0}{x^2}", "x^2", YES),
    ("\\color{red}{42}", "43", NO),
    ("\\nicefrac{1}{2}", "0.5", YES),
    ("\\sfrac{1}{2}", "0.5", YES),
    ("\\nicefrac12", "0.5", YES),
    ("\\nicefrac{1}{2}", "2", NO),
)
def test_colours_and_the_fractions_of_other_packages_are_dressing(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("x\\not=5", "x\\ne5", YES),
    ("x\\not = 5", "x\\ne5", YES),
    ("x\\not=5", "x=5", NO),
    ("x\\not=5", "5", NO),
)
def test_a_struck_equals_sign_says_different(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("= 5", "5", YES),
    ("=5", "5", YES),
    ("\\approx 3.14", "3.14", YES),
    ("\\approx 1.73", "\\sqrt3", NO),
    ("\\equiv 3", "3", YES),
    ("= 5 = 6", "5", NO),
    ("= 5 = 6", "6", NO),
    ("< 5", "5", NO),
    ("\\ne 5", "5", NO),
    ("\\ge 5", "5", NO),
    ("=", "5", NO),
    ("= x + 1", "x+1", YES),
)
def test_a_sign_in_front_of_the_answer_belongs_to_what_was_left_out(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    (".\\overline{3}", "1/3", YES),
    ("0.{\\overline{3}}", "1/3", YES),
    ("0.1{\\overline{6}}", "1/6", YES),
    ("-.\\overline{3}", "-1/3", YES),
    ("0.{\\overline{3}}", "0.3", NO),
    (".\\overline{3}", "3", NO),
    (".\\overline{36}", "0.36", NO),
)
def test_a_period_may_stand_in_braces_or_without_a_zero(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1'000", "1000", YES),
    ("1'234'567", "1234567", YES),
    ("1’000", "1000", YES),
    ("1'00", "100", NO),
    ("5'000", "5", NO),
    ("f'(x)", "f(x)", NO),
)
def test_apostrophes_group_thousands(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1.5 x 10^3", "1500", YES),
    ("1.5x10^{3}", "1500", YES),
    ("1.5 x 10^3", "1.5x", NO),
    ("2 x 10^{-3}", "0.002", YES),
    ("3 x 4", "12", NO),
    ("1.5 x 10^3", "150", NO),
)
def test_an_x_before_a_power_of_ten_multiplies(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("USD 5", "5", YES),
    ("US$5", "5", YES),
    ("US\\$5", "\\$5", YES),
    ("EUR 5", "€5", YES),
    ("EUR 5", "\\$5", NO),
    ("USD 5", "\\$6", NO),
    ("-USD 5", "5", NO),
)
def test_a_currency_may_be_named_before_the_number(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("(101)_2", "101_2", YES),
    ("(1010)_2", "10", YES),
    ("(1010)_{2}", "10", YES),
    ("(101)_2", "101_3", NO),
    ("(101)_2", "6", NO),
    ("(101)_2", "101", NO),
    ("\\left(101\\right)_2", "5", YES),
    ("(2B)_{16}", "43", YES),
    ("(x)_2", "x", NO),
    ("101\\text{ base }2", "101_2", YES),
    ("101\\text{ base }2", "5", YES),
    ("101 (base 2)", "5", YES),
    ("101_{\\text{base }2}", "5", YES),
    ("101 in base 2", "5", YES),
    ("101_{\\text{base two}}", "5", YES),
    ("101\\text{ base }2", "101_3", NO),
    ("101\\text{ (base 2)}", "5", YES),
    ("101 base 3", "5", NO),
    ("2B\\text{ base }16", "43", YES),
    ("101_{base 2}", "5", YES),
    ("5\\text{ baseballs}", "5", YES),
    ("101 \\text{ base two}", "5", YES),
    ("-101 base 2", "-5", YES),
)
def test_a_base_may_be_said_in_words_or_stand_behind_brackets(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\u200e5", "5", YES),
    ("5\u200f", "5", YES),
    ("\u202a5\u202c", "5", YES),
    ("“yes”", "yes", YES),
    ("“yes”", "no", NO),
    ("'yes'", "yes", YES),
    ("«yes»", "yes", YES),
    ("``yes''", "yes", YES),
    ("\\text{“yes”}", "yes", YES),
    ("'A' or 'B'", "A", NO),
    ("“A”", "A", YES),
    ("“A”", "B", NO),
    ('"5"', "5", YES),
)
def test_marks_of_layout_and_quotes_are_no_part_of_an_answer(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\lbrack 0,1\\rbrack", "[0,1]", YES),
    ("\\lbrack 0,1)", "[0,1]", NO),
    ("5\\ \\mu\\text{m}", "0.005\\text{ mm}", YES),
    ("5\\ \\mu\\text{m}", "5\\text{ m}", NO),
)
def test_brackets_and_prefixes_by_their_names(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected
