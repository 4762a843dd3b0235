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
    ("\\textcolor{red}{4}2", "8", NO),
    ("4\\textcolor{red}{2}", "8", NO),
    ("\\frac{1}{2}{3}", "1.5", YES),
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
    ('"5"', "5", NO),
    ("'5'", "5", NO),
    ('"two words"', "two words", YES),
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


@cases(
    ("The answer is A", "A", YES),
    ("The answer is A.", "A", YES),
    ("The answer is Evelyn", "Evelyn", YES),
    ("\\text{The answer is A}", "A", YES),
    ("\\text{The answer is Evelyn}", "Evelyn", YES),
    ("\\text{The answer is } A", "A", YES),
    ("\\text{The answer is } \\text{Evelyn}", "Evelyn", YES),
    ("The correct answer is (B)", "B", YES),
    ("The final answer is: C", "C", YES),
    ("Answer: C", "C", YES),
    ("Answer: Evelyn", "Evelyn", YES),
    ("So the answer is A", "A", YES),
    ("The correct option is B", "B", YES),
    ("The answer is “Evelyn”", "Evelyn", YES),
    ("The answer is 5", "5", YES),
    ("\\text{The answer is } 5", "5", YES),
    ("The answer is x=5", "5", YES),
    ("The answer is A", "B", NO),
    ("The answer is not A", "A", NO),
    ("The answer is A or B", "A", NO),
    ("The answer is A, B", "A", NO),
    ("The answer is neither A nor B", "A", NO),
    ("The answer is Evelyn or Mary", "Evelyn", NO),
    ("The answer is not Evelyn", "Evelyn", NO),
    ("The answer is 5 or 6", "5", NO),
    ("The answer is", "A", NO),
    ("The answer is a", "A", NO),
    ("The question is A", "A", NO),
    ("The answer is Eve", "Evelyn", NO),
)
def test_what_the_answer_is_said_to_be_is_the_answer(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("10:45 AM", "10:45 a.m.", YES),
    ("10:45\\text{ AM}", "10:45 AM", YES),
    ("10:45\\text{ a.m.}", "10:45 AM", YES),
    ("10:45 am", "10:45 a.m.", YES),
    ("10:45\\mathrm{~AM}", "10:45 a.m.", YES),
    ("10:45 p.m.", "10:45 AM", NO),
    ("10:45 PM", "10:46 PM", NO),
    ("3 p.m.", "3:00 PM", YES),
    ("3\\text{ p.m.}", "3:00 PM", YES),
    ("3 PM", "3:00 p.m.", YES),
    ("10:45", "10:45 AM", NO),
    ("5 pm", "5", YES),
    ("\\text{10:45 AM}", "10:45 a.m.", YES),
    ("10.45 AM", "10:45 AM", NO),
)
def test_a_time_of_day_has_one_spelling(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("2^x 2^y", "2^{x+y}", YES),
    ("2^x 2^y", "2^{xy}", NO),
    ("2^x2^y", "2^{x+y}", YES),
    ("e^x 2", "2e^x", YES),
    ("2^3 2", "16", NO),
    ("x2", "2x", NO),
    ("4 2", "8", NO),
    ("4 2", "42", NO),
    ("3+i4", "3+4i", YES),
    ("2i", "i2", YES),
    ("3+i4", "3-4i", NO),
    ("i 4", "4i", YES),
    ("\\sqrt3 2", "2\\sqrt3", YES),
    ("\\sqrt3 2", "\\sqrt{32}", NO),
    ("\\sqrt{3}2", "2\\sqrt3", YES),
    ("\\sqrt3 2", "\\sqrt6", NO),
    ("\\sqrt x 2", "2\\sqrt x", YES),
    ("2^3^2", "512", YES),
    ("2^3^2", "64", NO),
    ("2^{3^2}", "512", YES),
    ("2^{3}^{2}", "64", NO),
    ("(2^3)^2", "64", YES),
    ("2^-1^2", "\\frac14", NO),
    ("10^{2^3}", "10^8", YES),
    ("3!!", "3", YES),
    ("3!!", "720", NO),
    ("(3!)!", "720", YES),
    ("7!!", "105", YES),
    ("8!!", "384", YES),
    ("6!!", "48", YES),
    ("3!!!", "3", NO),
    ("5!", "120", YES),
    ("(5)!!", "15", YES),
    ("0!!", "1", YES),
    ("n!!", "n!", NO),
    ("90\\degree", "90", YES),
    ("90\\degree", "\\frac\\pi2", YES),
    ("90\\degree", "91", NO),
    ("\\sin 30\\degree", "\\frac12", YES),
    ("90\\textdegree", "90", YES),
    ("20\\degree C", "20^\\circ C", YES),
    ("2\\operatorname{cis}\\frac{\\pi}{3}", "1+i\\sqrt3", YES),
    ("2\\text{cis}60^\\circ", "1+i\\sqrt3", YES),
    ("2\\operatorname{cis}(60^\\circ)", "1+i\\sqrt3", YES),
    ("2\\operatorname{cis}\\frac{\\pi}{3}", "1-i\\sqrt3", NO),
    ("(1+10^{-9})^{10^9}", "e", NO),
    ("(1+10^{-9})^{10^9}", "1", NO),
    ("(1+10^{-12})^{10^{12}}", "1", NO),
    ("1.0000001^{10000000}", "e", NO),
    ("x^2^\\circ", "x", NO),
)
def test_powers_factorials_and_products_are_read_as_tex_sets_them(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("9.8\\,\\frac{\\text{m}}{\\text{s}^2}", "9.8\\text{ m/s}^2", YES),
    ("9.8\\frac{\\mathrm{m}}{\\mathrm{s}^{2}}", "9.8\\text{ m/s}^2", YES),
    ("9.8\\,\\mathrm{\\frac{m}{s^2}}", "9.8\\text{ m/s}^2", YES),
    ("9.8\\,\\mathrm{\\frac{m}{s^2}}", "9.8", YES),
    ("5\\;\\mathrm{m\\,s^{-1}}", "5\\text{ m/s}", YES),
    ("5\\,\\mathrm{m\\cdot s^{-1}}", "5\\text{ m/s}", YES),
    ("5\\text{ m s}^{-1}", "5\\text{ m/s}", YES),
    ("5\\,\\mathrm{kg\\,m^{2}\\,s^{-2}}", "5\\text{ J}", YES),
    ("5\\frac{\\text{km}}{\\text{h}}", "5\\text{ km/h}", YES),
    ("36\\frac{\\text{km}}{\\text{h}}", "10\\text{ m/s}", YES),
    ("5\\,\\frac{\\text{m}}{\\text{s}}", "5\\text{ m/s}^2", NO),
    ("5\\;\\mathrm{m\\,s^{-1}}", "5\\text{ m s}", NO),
    ("5\\;\\mathrm{m\\,s^{-1}}", "5\\text{ km/h}", NO),
    ("5\\frac{\\text{cm}}{\\text{s}}", "5\\text{ m/s}", NO),
    ("5\\,\\mathrm{m^{2}}", "5\\text{ m}^3", NO),
    ("5\\,\\mathrm{m^{2}}", "5\\text{ m}^2", YES),
    ("5\\,\\frac{\\text{apples}}{\\text{s}}", "5\\frac{\\text{m}}{\\text{s}}", NO),
    ("\\frac{\\text{area of }A}{\\text{area of }B}", "2", NO),
    ("2\\frac{\\text{m}}{\\text{s}}", "\\frac{2m}{s}", NO),
    ("\\text{5 cm}", "5", YES),
    ("\\text{5 cm}", "5\\text{ cm}", YES),
    ("\\text{5 cm}", "5\\text{ m}", NO),
    ("\\text{12 apples}", "12", YES),
    ("\\text{5 cm}", "6\\text{ cm}", NO),
    ("\\text{5 or 6}", "5", NO),
    ("\\text{5 or more}", "5", NO),
    ("\\text{2 more}", "2", NO),
    ("\\text{5 cm}^2", "5\\text{ cm}^2", YES),
    ("\\mathrm{5~kg}", "5\\text{ kg}", YES),
    ("\\text{-5 m}", "-5", YES),
    ("\\text{1 hour}", "60\\text{ minutes}", YES),
    ("\\text{50 percent}", "0.5", YES),
    ("\\text{3 of 5}", "3", NO),
    ("\\text{1st}", "1", YES),
    ("90 deg", "90", YES),
    ("90 deg", "90^\\circ", YES),
    ("90 deg", "\\frac\\pi2", YES),
    ("90\\text{ deg}", "90^\\circ", YES),
    ("90 deg", "80^\\circ", NO),
    ("5 min", "300\\text{ s}", YES),
    ("5 min", "5\\text{ hours}", NO),
    ("5 min(1,2)", "5", YES),
    ("5\\min(1,2)", "5", YES),
    ("5\\mathrm{ min}", "5\\text{ minutes}", YES),
    ("\\deg(f)", "3", NO),
)
def test_units_may_be_fractions_or_products_in_any_upright_font(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\text{lcm}(4,6)", "12", YES),
    ("\\mathrm{lcm}(4,6)", "12", YES),
    ("\\operatorname{lcm}(4,6)", "12", YES),
    ("\\text{gcd}(4,6)", "2", YES),
    ("\\text{lcm}(4,6)", "2", NO),
    ("\\text{max}(4,6)", "6", YES),
    ("\\mathrm{sin}(30^\\circ)", "\\frac12", YES),
    ("\\text{ln}(2)", "\\ln 2", YES),
    ("\\mathrm{ln} 2", "\\ln 2", YES),
    ("\\text{lcm}([4,6])", "12", NO),
    ("3+4\\mathrm{i}", "3+4i", YES),
    ("3+4\\mathrm{i}", "3-4i", NO),
    ("3\\mathrm{e}", "3e", YES),
    ("5\\mathrm{m}", "5\\text{ m}", YES),
    ("5\\mathrm{m}", "5\\text{ cm}", NO),
    ("2\\text{cis}60^\\circ", "1+i\\sqrt3", YES),
)
def test_functions_and_constants_may_be_upright(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\text{A3}_{16}", "163", YES),
    ("\\mathrm{A3}_{16}", "163", YES),
    ("\\text{FF}_{16}", "255", YES),
    ("\\text{A3}_{16}", "162", NO),
    ("\\text{101}_2", "5", YES),
    ("\\mathrm{A}_{16}", "10", YES),
    ("\\text{A3}_{16}", "A3", NO),
    ("\\text{ab}_{16}", "171", NO),
    ("\\text{area}_{10}", "10", NO),
    ("ff_{16}", "255", YES),
    ("a3_{16}", "163", YES),
    ("a3_{16}", "A3_{16}", YES),
    ("ff_{16}", "254", NO),
    ("ab_{16}", "171", YES),
    ("ab_{12}", "b_{12}a", YES),
    ("2b_{16}", "43", YES),
    ("2b_{16}", "44", NO),
    ("2b_{12}", "35", NO),
    ("2A_{16}", "2a_{16}", YES),
    ("2b_{16}", "b_{16}\\cdot 2", YES),
    ("a_{10}", "10", NO),
    ("a_{10}=55", "55", YES),
    ("ff_2", "255", NO),
    ("a3_{10}", "163", NO),
    ("a_{16}", "10", NO),
    ("x_{16}", "16", NO),
    ("FF_{16}", "255", YES),
)
def test_digits_above_nine_may_be_lower_case_or_upright(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("(1,000)", "1000", YES),
    ("(12,034,000)", "12034000", YES),
    ("(1,000)", "(1,0)", YES),
    ("(1,000)", "1", NO),
    ("(100,200)", "100200", NO),
    ("(1,234)", "1234", NO),
    ("(1,000, 5)", "10005", NO),
)
def test_groups_that_begin_with_zero_are_thousands_also_in_brackets(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected
