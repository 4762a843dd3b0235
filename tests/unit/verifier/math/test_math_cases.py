"""Which answers are equal, by category. Each row is an answer, a gold, and whether the answer is right; both are bare answers."""

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
    ("42", "42", YES),
    ("$42$", "42", YES),
    ("\\[42\\]", "42", YES),
    ("42\\\\", "42", YES),
    ("**42**", "42", YES),
    ("0042", "42", YES),
    ("-0", "0", YES),
    ("--5", "5", YES),
    ("42.000", "42", YES),
    ("\\mathbf{42}", "42", YES),
    ("\\boxed{42}", "42", YES),
    ("(42)", "42", YES),
    ("five", "5", YES),
    ("41.999999", "42", NO),
    ("42.0000001", "42", NO),
    ("9007199254740993", "9007199254740992", NO),
    ("123456789012345678901234567891", "123456789012345678901234567890", NO),
    ("1 2 3", "123", NO),
    ("4,2", "42", NO),
    ("4 2", "42", NO),
    ("24", "42", NO),
)
def test_integers_are_exact_at_any_size(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1,234,567", "1234567", YES),
    ("1 234 567", "1234567", YES),
    ("1\\,234\\,567", "1234567", YES),
    ("1{,}234{,}567", "1234567", YES),
    ("11,\\!111,\\!100", "11111100", YES),
    ("11,\\! 111", "11111", YES),
    ("-1,000", "-1000", YES),
    ("\\$1,000", "1000", YES),
    ("1,000,000.5", "1000000.5", YES),
    ("(1,000, 5)", "(1000, 5)", YES),
    ("(100,200)", "(100, 200)", YES),
    ("\\{100,200\\}", "\\{200, 100\\}", YES),
    ("1,00", "100", NO),
    ("10,00", "1000", NO),
    ("1,2,3", "123", NO),
    ("200,100", "100,200", NO),
    ("12,34", "1234", NO),
)
def test_thousands_separators_group_three_digits(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\cfrac{1}{2}", "1/2", YES),
    ("\\frac 12", "1/2", YES),
    ("\\frac{270}7", "\\frac{270}{7}", YES),
    ("-\\frac{1}{2}", "\\frac{-1}{2}", YES),
    ("\\frac{-1}{-2}", "\\frac{1}{2}", YES),
    ("\\frac{1}{-2}", "-1/2", YES),
    ("(1/2)", "0.5", YES),
    ("1/2", "2^{-1}", YES),
    ("\\frac{1/2}{3}", "1/6", YES),
    ("6/4", "3/2", YES),
    ("\\frac{x}{2}", "\\frac12 x", YES),
    ("⅔", "\\frac{2}{3}", YES),
    ("1⁄2", "1/2", YES),
    ("0.50", "\\frac{1}{2}", YES),
    ("\\frac{2}{3}", "\\frac{3}{2}", NO),
    ("0.67", "\\frac{2}{3}", NO),
    ("0.6666666666666667", "\\frac{2}{3}", YES),
    ("0.66666666", "\\frac{2}{3}", NO),
    ("\\frac{1}{2}", "2", NO),
    ("1/0", "1", NO),
    ("\\frac{a}{b}", "\\frac{b}{a}", NO),
)
def test_fractions_have_their_value_in_every_notation(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("-1\\frac{1}{2}", "-\\frac{3}{2}", YES),
    ("-1 1/2", "-1.5", YES),
    ("1½", "1.5", YES),
    ("1{\\frac{1}{2}}", "\\frac12", NO),
    ("137 \\frac{1}{2}", "137.5", YES),
    ("2\\tfrac13", "\\frac{7}{3}", YES),
    ("2\\frac{x}{3}", "\\frac{2x}{3}", YES),
    ("2\\cdot\\frac{3}{4}", "1.5", YES),
    ("2\\frac{3}{4}", "1.5", NO),
    ("-1\\frac12", "-\\frac12", NO),
    ("1\\frac12", "-\\frac32", NO),
)
def test_a_whole_number_before_a_fraction_is_a_mixed_number(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("0.\\overline{3}", "\\frac{1}{3}", YES),
    ("0.\\overline3", "\\frac{1}{3}", YES),
    ("0.(3)", "\\frac{1}{3}", YES),
    ("0.\\dot{3}", "\\frac{1}{3}", YES),
    ("0.\\dot{1}4285\\dot{7}", "\\frac{1}{7}", YES),
    ("0.333...", "\\frac{1}{3}", YES),
    ("0.1666\\ldots", "\\frac{1}{6}", YES),
    ("-0.\\overline{27}", "-\\frac{3}{11}", YES),
    ("12.3\\overline{45}", "\\frac{679}{55}", YES),
    ("0.4\\overline{9}", "0.5", YES),
    ("\\frac{1}{3}", "0.\\overline{3}", YES),
    ("0.\\overline{33}", "0.\\overline{3}", YES),
    ("0.\\overline{3}", "0.33", NO),
    ("0.\\overline{36}", "0.3\\overline{6}", NO),
    ("0.33", "0.\\overline{3}", NO),
    ("3.14...", "\\pi", NO),
)
def test_a_period_goes_on_for_ever(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1.5e3", "1500", YES),
    ("1.5\\times10^{3}", "1500", YES),
    ("2*10^5", "200000", YES),
    ("1.5 x 10^3", "1500", YES),
    ("3\\times 10^{-5}", "0.00003", YES),
    ("1e-5", "0.00001", YES),
    ("10^{-3}", "0.001", YES),
    ("6.02e23", "6.02 \\times 10^{23}", YES),
    ("1.60e-19", "1.6 \\times 10^{-19}", YES),
    ("2e-19", "3e-19", NO),
    ("1e400", "1e401", NO),
    ("1.5e3", "1.5", NO),
    ("0.0000001", "0.0000002", NO),
    ("6.022 \\times 10^{23}", "6.02 \\times 10^{23}", NO),
    ("3 \\times 10^8", "3 \\times 10^{-8}", NO),
)
def test_powers_of_ten_are_exact(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("3.14", "\\pi", NO),
    ("3.14159265358979", "\\pi", YES),
    ("3.14159265358978", "\\pi", YES),
    ("3.1415926536", "\\pi", NO),
    ("3.14259265358979", "\\pi", NO),
    ("1.7320508075688772", "\\sqrt{3}", YES),
    ("\\sqrt{3} \\approx 1.732", "\\sqrt{3}", YES),
    ("x = \\sqrt{3} \\approx 1.73", "\\sqrt{3}", YES),
    ("x \\approx 1.73", "1.73", YES),
    ("\\approx 1.73", "1.73", YES),
    ("\\sqrt{3} \\approx 5", "5", NO),
    ("\\sqrt{2}", "1.41", NO),
    ("0.3333", "\\frac13", NO),
    ("1.0000000000001", "1", NO),
    ("12.34", "12.3", NO),
    ("12.30", "12.3", YES),
    ("\\frac{22}{7}", "\\pi", NO),
)
def test_a_decimal_stands_for_an_exact_value_only_with_twelve_digits(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\sqrt{12}", "2\\sqrt{3}", YES),
    ("√2", "\\sqrt{2}", YES),
    ("√(2)", "\\sqrt{2}", YES),
    ("2√3", "\\sqrt{12}", YES),
    ("\\frac{2}{\\sqrt{3}}", "\\frac{2\\sqrt{3}}{3}", YES),
    ("\\sqrt{\\frac{1}{2}}", "\\frac{\\sqrt2}{2}", YES),
    ("\\sqrt[4]{16}", "2", YES),
    ("\\sqrt[3]{-27}", "-3", YES),
    ("(-8)^{1/3}", "-2", YES),
    ("\\sqrt[3]{54}", "3\\sqrt[3]{2}", YES),
    ("2^{0.5}", "\\sqrt{2}", YES),
    ("\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3", YES),
    ("\\frac{1}{\\sqrt{3}-\\sqrt{2}}", "\\sqrt{3}+\\sqrt{2}", YES),
    ("\\sqrt{x}\\sqrt{x}", "x", YES),
    ("\\sqrt{2}\\cdot\\sqrt{3}", "\\sqrt6", YES),
    ("\\sqrt{2}+\\sqrt{3}", "\\sqrt5", NO),
    ("\\sqrt{2}", "-\\sqrt{2}", NO),
    ("\\sqrt[3]{2}", "\\sqrt{2}", NO),
    ("\\sqrt{9}", "\\pm3", NO),
    ("\\sqrt{10^{60}+1}", "10^{30}", NO),
    ("\\sqrt{-4}", "2i", YES),
    ("\\sqrt{x^2}", "x", NO),
)
def test_roots_are_real_and_principal(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("2^{10}", "1024", YES),
    ("2**10", "1024", YES),
    ("2^10", "1024", YES),
    ("-2^2", "-4", YES),
    ("(-2)^2", "4", YES),
    ("-2^2", "4", NO),
    ("3!", "6", YES),
    ("3!!", "3", YES),
    ("3!!", "720", NO),
    ("(3!)!", "720", YES),
    ("2^{n+1}", "2\\cdot 2^n", YES),
    ("4^n", "2^{2n}", YES),
    ("8^{n/3}", "2^n", YES),
    ("(x^2)^3", "x^6", YES),
    ("\\frac{100!}{99!}", "100", YES),
    ("x^{-2}", "\\frac{1}{x^2}", YES),
    ("2^{100}", "2^{101}", NO),
    ("10^{100}", "10^{100}+1", NO),
    ("x^2", "2x", NO),
    ("2^n", "n^2", NO),
)
def test_powers_and_factorials(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\log_2 8", "3", YES),
    ("\\log_{2}{8}", "3", YES),
    ("\\lg 1000", "3", YES),
    ("\\log 100", "2", YES),
    ("\\ln e^2", "2", YES),
    ("\\log_2 3", "\\frac{\\ln 3}{\\ln 2}", YES),
    ("\\log_4 8", "\\frac32", YES),
    ("\\ln(xy)", "\\ln x+\\ln y", YES),
    ("-\\ln 2", "\\ln\\frac12", YES),
    ("\\frac{\\log 2}{\\log 3}", "\\log_3 2", YES),
    ("\\log_2 3", "\\log_3 2", NO),
    ("\\ln 6", "\\ln 2\\cdot\\ln 3", NO),
    ("\\ln(2+3)", "\\ln2+\\ln3", NO),
    ("\\ln 2", "0.693", NO),
)
def test_logarithms(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("50\\%", "0.5", YES),
    ("50", "50\\%", YES),
    ("50\\%", "50", YES),
    ("50\\%", "\\frac12", YES),
    ("33\\frac{1}{3}\\%", "\\frac13", YES),
    ("12.5 \\%", "12.5%", YES),
    ("50 percent", "0.5", YES),
    ("50 per cent", "50", YES),
    ("0.5\\%", "0.5", NO),
    ("5\\%", "50\\%", NO),
    ("0.05", "5", NO),
    ("5", "0.05", NO),
    ("50", "0.5", NO),
    ("500\\%", "5", YES),
)
def test_a_percent_sign_divides_by_a_hundred_and_nothing_else_does(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("$42", "42", YES),
    ("42 dollars", "\\$42", YES),
    ("\\$42", "42\\text{ dollars}", YES),
    ("€5", "5", YES),
    ("5 euros", "€5", YES),
    ("£5", "€5", NO),
    ("\\$0.75", "75\\text{ cents}", YES),
    ("75 cents", "\\$0.75", YES),
    ("75 cents", "75", YES),
    ("\\$-5", "-5", YES),
    ("-\\$5", "-5", YES),
    ("\\$2 million", "2000000", YES),
    ("18.90", "\\$18.9", YES),
    ("\\$5", "\\$50", NO),
    ("75 cents", "\\$75", NO),
)
def test_money(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("5 cm", "5", YES),
    ("5", "5\\text{ cm}", YES),
    ("5\\mathrm{~cm}", "5 \\text{ cm}", YES),
    ("5 centimeters", "5\\text{ cm}", YES),
    ("5\\text{ cm}", "5\\text{ m}", NO),
    ("500\\text{ cm}", "5\\text{ m}", YES),
    ("5\\text{ m}", "500\\text{ cm}", YES),
    ("5\\text{ cm}^2", "5\\text{ square centimeters}", YES),
    ("5 cm^2", "5\\text{ cm}^2", YES),
    ("5\\text{ cm}^2", "5\\text{ cm}^3", NO),
    ("5\\text{ cm}", "5\\text{ cm}^2", NO),
    ("36\\text{ km/h}", "10\\text{ m/s}", YES),
    ("60 mph", "60\\text{ miles per hour}", YES),
    ("90 minutes", "1.5\\text{ hours}", YES),
    ("90 minutes", "1.5\\text{ days}", NO),
    ("1\\text{ kg}", "1000\\text{ g}", YES),
    ("12 apples", "12\\text{ oranges}", NO),
    ("12 apples", "12", YES),
    ("12 red apples", "12\\text{ apples}", YES),
    ("12 square units", "12", YES),
    ("5 m", "5\\text{ m}", YES),
    ("5x", "5", NO),
    ("5n", "5", NO),
    ("3\\pi\\text{ cm}", "3\\pi", YES),
    ("\\frac{1}{2}\\text{ hour}", "30\\text{ minutes}", YES),
    ("10\\,\\mathrm{m/s^2}", "10", YES),
    ("2 hours", "2 minutes", NO),
)
def test_units_convert_and_may_be_left_out_but_not_exchanged(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("45^\\circ", "45", YES),
    ("45^{\\circ}", "45\\text{ degrees}", YES),
    ("45", "45^\\circ", YES),
    ("\\frac{\\pi}{4}", "45^\\circ", YES),
    ("45^\\circ", "\\frac{\\pi}{4}", YES),
    ("\\frac{\\pi}{4}\\text{ radians}", "45^\\circ", YES),
    ("\\sin 30^\\circ", "\\frac12", YES),
    ("\\tan(45^\\circ)", "1", YES),
    ("\\cos 30^\\circ", "\\frac{\\sqrt3}{2}", YES),
    ("90^\\circ - 30^\\circ", "60^\\circ", YES),
    ("45^\\circ", "46^\\circ", NO),
    ("\\frac{\\pi}{3}", "45^\\circ", NO),
    ("\\sin 30", "\\frac12", NO),
    ("20^\\circ\\text{C}", "20", YES),
    ("0.785", "45^\\circ", NO),
)
def test_degrees(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("2 million", "2000000", YES),
    ("2\\text{ million}", "2,000,000", YES),
    ("1.5 billion", "1.5 \\times 10^9", YES),
    ("3 thousand", "3000", YES),
    ("2 dozen", "24", YES),
    ("2 million", "2", NO),
    ("2", "2 million", NO),
    ("2 million", "2 billion", NO),
    ("2 million people", "2000000", YES),
)
def test_words_of_magnitude_multiply(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("(1,2)", "(1, 2)", YES),
    ("\\left(1,2\\right)", "(1,2)", YES),
    ("\\langle 1,2\\rangle", "(1,2)", YES),
    ("1,2", "(1,2)", YES),
    ("(x,y)=(1,2)", "(1,2)", YES),
    ("x=1, y=2", "(1,2)", YES),
    ("y=2, x=1", "(1,2)", YES),
    ("x=2, y=1", "(1,2)", NO),
    ("(1,2)", "x=1, y=2", YES),
    ("x=1\\text{ and }y=2", "(1,2)", YES),
    ("(1,(2,3))", "(1,(2,3))", YES),
    ("(1,2),(3,4)", "(3,4),(1,2)", YES),
    ("(1,2),(3,4)", "(2,1),(3,4)", NO),
    ("(\\sqrt{4}, 3)", "(2,3)", YES),
    ("(1,2,3)", "(3,2,1)", NO),
    ("[1,2,3]", "(1,2,3)", YES),
    ("(1,2)", "(1,2,3)", NO),
    ("2,1", "(1,2)", NO),
    ("(1,2)", "\\{1,2\\}", NO),
    ("(1;2)", "(1,2)", YES),
    ("(a,b)", "(b,a)", NO),
)
def test_brackets_keep_the_order(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1,2", "2,1", YES),
    ("1 and 2", "1,2", YES),
    ("1, 2, and 3", "3,2,1", YES),
    ("\\{2,1\\}", "\\{1,2\\}", YES),
    ("\\{1,1,2\\}", "\\{1,2\\}", YES),
    ("\\{1,2\\}", "1,2", YES),
    ("\\{5\\}", "5", YES),
    ("x=1,2", "\\{1,2\\}", YES),
    ("x=1, x=2", "1,2", YES),
    ("x=1\\text{ or }x=2", "x=2\\text{ or }x=1", YES),
    ("x \\in \\{1,2\\}", "\\{1,2\\}", YES),
    ("\\{\\}", "\\emptyset", YES),
    ("\\emptyset", "\\{0\\}", NO),
    ("\\varnothing", "\\emptyset", YES),
    ("1,2,2", "1,2,3", NO),
    ("1,2", "1", NO),
    ("1", "1,2", NO),
    ("1,2,3", "1,2", NO),
    ("1,1", "1", NO),
    ("\\{1,2\\}", "\\{1,3\\}", NO),
    ("\\{(1,2),(3,4)\\}", "(3,4),(1,2)", YES),
    ("5,1", "1,5", YES),
    ("\\frac12, 2", "2, 0.5", YES),
    ("90^\\circ, 60^\\circ", "60, 90", YES),
)
def test_lists_and_sets_have_no_order(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\pm 3", "3, -3", YES),
    ("\\pm 3", "\\{-3, 3\\}", YES),
    ("x=\\pm 3", "\\pm 3", YES),
    ("x=\\pm 3", "x=3\\text{ or }x=-3", YES),
    ("± 3", "\\pm 3", YES),
    ("2\\pm\\sqrt3", "2-\\sqrt3, 2+\\sqrt3", YES),
    ("\\frac{1\\pm\\sqrt5}{2}", "\\frac{1\\mp\\sqrt5}{2}", YES),
    ("\\pm\\sqrt2\\pm\\sqrt3", "\\sqrt2+\\sqrt3, \\sqrt2-\\sqrt3, -\\sqrt2+\\sqrt3, -\\sqrt2-\\sqrt3", YES),
    ("\\{1\\pm\\sqrt5,-2\\}", "-2, 1+\\sqrt5, 1-\\sqrt5", YES),
    ("\\pm 0", "0", YES),
    ("\\pm 3", "3", NO),
    ("3", "\\pm 3", NO),
    ("\\pm 3", "\\pm 4", NO),
    ("2\\pm\\sqrt3", "2+\\sqrt3", NO),
    ("(\\pm 1, \\pm 2)", "(1,2),(1,-2),(-1,2),(-1,-2)", YES),
)
def test_plus_minus_is_two_values(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("[0,1]", "[0, 1]", YES),
    ("(0,1)", "[0,1]", NO),
    ("[0,1)", "(0,1]", NO),
    ("]0,1[", "(0,1)", YES),
    ("(-\\infty, 3)", "x<3", YES),
    ("x \\le 3", "(-\\infty,3]", YES),
    ("x<3", "(-\\infty,3]", NO),
    ("(-\\infty,\\infty)", "\\mathbb{R}", YES),
    ("\\mathbb{R}", "\\mathbb{Z}", NO),
    ("(0,1)\\cup(1,2)", "(0,2)\\setminus\\{1\\}", YES),
    ("(0,1]\\cup(1,2)", "(0,2)", YES),
    ("(0,1)\\cup(1,2)", "(0,2)", NO),
    ("[0,2]\\cap[1,3]", "[1,2]", YES),
    ("x\\ne 2", "(-\\infty,2)\\cup(2,\\infty)", YES),
    ("x<1\\text{ or }x>3", "(-\\infty,1)\\cup(3,\\infty)", YES),
    ("x>1\\text{ and }x<3", "(1,3)", YES),
    ("1<x<3", "(1,3)", YES),
    ("3>x>1", "(1,3)", YES),
    ("\\{x \\mid x>2\\}", "(2,\\infty)", YES),
    ("\\{x : 1<x<2\\}", "(1,2)", YES),
    ("(2,\\infty]", "(2,\\infty)", YES),
    ("[\\frac12, \\sqrt2)", "[0.5,2^{1/2})", YES),
    ("(a,b)", "(a,b)", YES),
    ("(a,b]", "(a,b)", NO),
    ("(-\\infty, 0) \\cup\\{1\\}", "\\{1\\}\\cup(-\\infty,0)", YES),
    ("|x|<2", "(-2,2)", YES),
    ("|x-1|\\le 2", "[-1,3]", YES),
    ("|x|>2", "(-\\infty,-2)\\cup(2,\\infty)", YES),
    ("2x+1<5", "(-\\infty,2)", YES),
    ("[2,1]", "\\emptyset", YES),
)
def test_intervals_and_inequalities_are_sets_of_numbers(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("x=5", "5", YES),
    ("x = 5", "x=5", YES),
    ("5=x", "5", YES),
    ("y=2x+1", "2x+1", YES),
    ("2x+1", "y=2x+1", YES),
    ("f(x)=2x+1", "y=2x+1", YES),
    ("f(n)=n^2", "f(x)=x^2", YES),
    ("y=2x+1", "2x-y+1=0", YES),
    ("2y=4x+2", "y=2x+1", YES),
    ("x=y", "y=x", YES),
    ("x=2+3=5", "5", YES),
    ("2+3=5", "5", YES),
    ("x=2+3=6", "6", NO),
    ("x=5", "y=5", NO),
    ("x=5", "-5", NO),
    ("y=2x+1", "y=2x-1", NO),
    ("x+y=1", "1", NO),
    ("2x=10", "5", NO),
    ("x^2=4", "\\pm 2", NO),
    ("5=5", "5", NO),
    ("0=0", "0", NO),
    ("AB = 5", "5", YES),
    ("\\angle ABC = 90^\\circ", "90", YES),
    ("|AB|=5", "5", YES),
    ("|x|=5", "5", NO),
    ("\\frac{AB}{CD}=2", "2", YES),
    ("P(X=3)=0.2", "0.2", YES),
    ("a_{10}=55", "55", YES),
    ("x^2+y^2=1", "y^2+x^2-1=0", YES),
    ("x^2+y^2=1", "x^2+y^2=2", NO),
    ("(x-1)^2+y^2=4", "x^2-2x+y^2=3", YES),
)
def test_an_equation_claims_its_value_or_is_compared_whole(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("x>5", "5<x", YES),
    ("x>=5", "x\\ge5", YES),
    ("x \\geq 5", "x\\ge 5", YES),
    ("2x>10", "x>5", YES),
    ("-x<-5", "x>5", YES),
    ("x>5", "x\\ge5", NO),
    ("x>5", "x<5", NO),
    ("x<5", "y<5", NO),
    ("a+b>c", "c<a+b", YES),
    ("a+b>c", "a+b<c", NO),
    ("a\\le b\\le c", "c\\ge b\\ge a", YES),
    ("1<x\\le2", "1\\le x<2", NO),
    ("x>5", "5", NO),
    ("n \\geq 2", "n\\geqslant 2", YES),
)
def test_inequalities_have_a_direction(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("(x+1)^2", "x^2+2x+1", YES),
    ("x(x+2)+1", "(x+1)^2", YES),
    ("ba", "ab", YES),
    ("2ab", "2 \\cdot b \\cdot a", YES),
    ("\\frac{x^2-4}{x-2}", "x+2", YES),
    ("\\binom{5}{2}", "10", YES),
    ("\\binom{n}{2}", "\\frac{n(n-1)}{2}", YES),
    ("(n+1)!", "(n+1)n!", YES),
    ("\\sum_{k=1}^{10} k", "55", YES),
    ("\\sum_{i=1}^{n} i^2", "\\frac{n(n+1)(2n+1)}{6}", YES),
    ("\\lfloor 3.7 \\rfloor", "3", YES),
    ("\\lfloor -3.7 \\rfloor", "-4", YES),
    ("\\gcd(12,18)", "6", YES),
    ("10 \\bmod 4", "2", YES),
    ("|x-y|", "|y-x|", YES),
    ("\\max(1,2)", "2", YES),
    ("x_1+x_2", "x_2+x_1", YES),
    ("x_1", "x_{1}", YES),
    ("x_1", "x_2", NO),
    ("x+1", "x-1", NO),
    ("x", "X", NO),
    ("x^2", "x^3", NO),
    ("(x+y)^2", "x^2+y^2", NO),
    ("\\frac{1}{x}+\\frac{1}{y}", "\\frac{1}{x+y}", NO),
    ("n", "\\lfloor n\\rfloor", NO),
    ("\\hat{x}", "x", NO),
    ("\\frac{dx}{dt}", "\\frac{x}{t}", NO),
    ("e^{-t}", "\\frac{1}{e^t}", YES),
    ("f(x)", "f(y)", NO),
    ("(a+5)(b+2)", "ab+2a+5b+10", YES),
)
def test_algebra(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\cos^2x", "1-\\sin^2x", YES),
    ("\\cos 2x", "1-2\\sin^2 x", YES),
    ("\\sin(x)\\cos(x)", "\\frac{\\sin 2x}{2}", YES),
    ("\\sin(-x)", "-\\sin x", YES),
    ("\\sin x\\cos y+\\cos x\\sin y", "\\sin(x+y)", YES),
    ("\\tan^{-1}(1)", "\\frac{\\pi}{4}", YES),
    ("\\sec x", "\\frac{1}{\\cos x}", YES),
    ("sin x", "\\sin x", YES),
    ("\\operatorname{arctan} 1", "\\frac\\pi4", YES),
    ("\\cos\\frac{\\pi}{3}", "\\frac12", YES),
    ("\\sin 75^\\circ", "\\frac{\\sqrt6+\\sqrt2}{4}", YES),
    ("\\sinh x", "\\frac{e^x-e^{-x}}{2}", YES),
    ("\\cotx", "\\cot x", YES),
    ("\\sin x", "\\cos x", NO),
    ("\\sin 2x", "2\\sin x", NO),
    ("\\sin^{-1} x", "\\frac{1}{\\sin x}", NO),
    ("\\sin(x^2)", "\\sin^2 x", NO),
    ("\\cos x", "\\cos(x+\\pi)", NO),
)
def test_trigonometry(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("π/6", "\\frac{\\pi}{6}", YES),
    ("pi", "\\pi", YES),
    ("2pi", "2\\pi", YES),
    ("\\pi r^2", "r^2\\pi", YES),
    ("\\frac{e}{2}", "e/2", YES),
    ("\\mathrm{e}", "e", YES),
    ("infinity", "\\infty", YES),
    ("-\\infty", "-∞", YES),
    ("\\infty", "10^{100}", NO),
    ("\\infty", "-\\infty", NO),
    ("\\pi", "p", NO),
    ("e^\\pi", "\\pi^e", NO),
    ("1/0", "\\infty", NO),
    ("nan", "0", NO),
)
def test_constants(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("3+4i", "4i+3", YES),
    ("3+4i", "3-4i", NO),
    ("i", "\\sqrt{-1}", YES),
    ("\\frac{1}{i}", "-i", YES),
    ("(1+i)(1-i)", "2", YES),
    ("\\frac{1+i}{1-i}", "i", YES),
    ("|1+i|", "\\sqrt2", YES),
    ("e^{i\\pi/2}", "i", YES),
    ("2(\\cos\\frac{\\pi}{3}+i\\sin\\frac{\\pi}{3})", "1+\\sqrt3 i", YES),
    ("\\pm i", "i,-i", YES),
    ("\\overline{1+i}", "1-i", YES),
    ("e^{i\\theta}", "\\cos\\theta+i\\sin\\theta", YES),
    ("i", "1", NO),
    ("1+\\mathrm{i}", "1+i", YES),
    ("\\frac{4}{3+3i}", "\\frac{2-2i}{3}", YES),
)
def test_complex_numbers(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", YES),
    ("\\begin{pmatrix}1 & 2 \\\\[2pt] 3 & 4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", YES),
    ("\\begin{pmatrix}\\frac12\\\\0.5\\end{pmatrix}", "\\begin{pmatrix}1/2\\\\1/2\\end{pmatrix}", YES),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)", YES),
    ("(1,2)", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", YES),
    ("\\begin{pmatrix}1&2\\end{pmatrix}^T", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", YES),
    ("\\frac12\\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", YES),
    ("[[1,2],[3,4]]", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", YES),
    ("\\det\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "-2", YES),
    (
        "\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}+\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "\\begin{pmatrix}2&2\\\\3&5\\end{pmatrix}",
        YES,
    ),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", NO),
    ("\\begin{pmatrix}1&2&3\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}", NO),
    ("\\begin{pmatrix}1&2\\\\3\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", NO),
    ("1,2,3,4", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", NO),
)
def test_matrices_and_vectors(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("1010_{2}", "10", YES),
    ("1010_2", "1010_2", YES),
    ("A_{16}", "10", YES),
    ("FF_{16}", "255", YES),
    ("2B_{16}", "43", YES),
    ("43", "2B_{16}", YES),
    ("101_{\\text{two}}", "5", YES),
    ("4210", "4210_5", YES),
    ("1010_2", "1010_3", NO),
    ("1010_2", "1010", NO),
    ("12_2", "12", NO),
    ("1010_2", "22_4", YES),
    ("1010_2", "11_4", NO),
)
def test_a_subscript_of_digits_is_their_base(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("(A)", "A", YES),
    ("A", "(A)", YES),
    ("\\text{(A)}", "\\text{A}", YES),
    ("A)", "A", YES),
    ("\\mathrm{(A)}", "A", YES),
    ("Option A", "A", YES),
    ("(a)", "A", YES),
    ("(A) 5", "A", YES),
    ("A: 5", "A", YES),
    ("(A) 5", "(A) 6", NO),
    ("5", "(A) 5", YES),
    ("B", "A", NO),
    ("a", "A", NO),
    ("A or B", "A", NO),
    ("(A) or (B)", "A", NO),
    ("A, B", "A", NO),
    ("(A), (B)", "A", NO),
    ("A and B", "A, B", YES),
    ("B, A", "A, B", YES),
    ("AB", "A", NO),
    ("i", "I", NO),
    ("e", "E", NO),
    ("A", "5", NO),
)
def test_a_choice_is_one_letter(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("\\text{Tuesday}", "tuesday", YES),
    ("Tuesday", "Wednesday", NO),
    ("\\text{no}", "No", YES),
    ("no solution", "\\text{No Solution}", YES),
    ("no solutions", "no solution", YES),
    ("silent", "listen", NO),
    ("yes", "no", NO),
    ("\\textbf{ellipse}", "ellipse", YES),
    ("an ellipse", "ellipse", YES),
    ("parabola", "ellipse", NO),
    ("DNE", "does not exist", YES),
    ("undefined", "0", NO),
    ("10:45", "10:45", YES),
    ("10:45", "10:46", NO),
    ("3:4", "6:8", YES),
    ("3:4", "4:3", NO),
    ("3:4", "\\frac{3}{4}", YES),
    ("1:2:3", "2:4:6", YES),
    ("1:2:3", "1:3:2", NO),
    ("even", "odd", NO),
    ("east", "seat", NO),
    ("\\text{Evelyn.}", "Evelyn", YES),
)
def test_words_and_ratios(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("", "0", NO),
    ("?", "5", NO),
    ("\\frac{}{}", "0", NO),
    ("\\frac{1}{2", "\\frac12", NO),
    ("\\sqrt{}", "0", NO),
    ("(1,2", "(1,2)", NO),
    ("dfrac{1}{2}", "\\frac12", YES),
    ("sqrt{2}", "\\sqrt2", YES),
    ("\\\\sqrt{2}", "\\sqrt2", YES),
    ("\\foo{5}", "5", NO),
    ("5 5", "55", NO),
    ("5+", "5", NO),
    ("^5", "5", NO),
    ("\\text{}", "0", NO),
    ("N/A", "0", NO),
    ("...", "5", NO),
)
def test_what_is_no_mathematics_is_not_guessed(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("x₁", "x_1", YES),
    ("x³", "x^3", YES),
    ("−5", "-5", YES),
    ("3×4", "12", YES),
    ("５", "5", YES),
    ("x≠2", "x\\ne 2", YES),
    ("5\u202f000", "5000", YES),
    ("\ufeff5", "5", YES),
    ("θ", "\\theta", YES),
    ("ℝ", "\\mathbb{R}", YES),
    ("½", "0.5", YES),
    ("100°", "100^\\circ", YES),
    ("10⁻³", "0.001", YES),
    ("[1,2]∪[3,4]", "[1,2]\\cup[3,4]", YES),
    ("५", "5", YES),
    ("x²", "x^3", NO),
    ("²", "2", NO),
)
def test_unicode_is_read_like_latex(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("__import__('os').getpid()", "5", NO),
    ("exec('x=1')", "5", NO),
    ("(lambda: 5)()", "5", NO),
    ("[].__class__", "5", NO),
    ("5 if True else 4", "5", NO),
    ("int('5')", "5", NO),
    ('eval("5")', "5", NO),
    ("\\x35", "5", NO),
    ("5;import os", "5", NO),
    ("5#comment", "5", NO),
    ("9^{9^{9^{9}}}", "1", NO),
    ("7^{1000000000}", "7", NO),
    ("(10^{10})!", "1", NO),
    ("\\binom{10^{9}}{10^{8}}", "1", NO),
    ("1e999999999", "1", NO),
    ("(" * 500 + "5" + ")" * 500, "5", NO),
    ("-" * 3000 + "5", "5", NO),
    ("1+" * 3000 + "1", "3001", NO),
    ("\\sqrt{" * 500 + "2" + "}" * 500, "2", NO),
    ("1" * 4500, "1" * 4499 + "2", NO),
    ("1" * 4500, "1" * 4500, YES),
    ("e^{\\pi\\sqrt{163}}", "262537412640768744", NO),
    ("\\frac{10^{100}+1}{10^{100}}", "1", NO),
    ("\\sin(10^{30})", "0", NO),
    ("1,2,3,4,5,6,7,8,9", "7", NO),
    ("\\text{5 or 6 or 7}", "5", NO),
    ("5" + "!" * 2000, "5", NO),
)
def test_programs_bombs_and_near_misses_earn_nothing(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("x+e^{-1000}", "x", NO),
    ("x+\\frac{1}{1000!}", "x", NO),
    ("x+e^{-e^{20}}", "x", NO),
    ("x\\cdot\\frac{10^{200}+1}{10^{200}}", "x", NO),
    ("\\sqrt{2}+e^{-300}", "\\sqrt{2}", NO),
    ("\\sin x+2^{-500}", "\\sin x", NO),
)
def test_a_difference_too_small_to_see_is_not_overlooked(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


@cases(
    ("7 or more", "7", NO),
    ("\\text{at least } 7", "7", NO),
    ("\\text{not } 7", "7", NO),
    ("7 \\text{ or less}", "7", NO),
    ("[7)", "7", NO),
    ("7 = 8", "8", NO),
    ("7 \\to 8", "8", NO),
    ("x \\ne 5", "5", NO),
    ("5 < 6", "5", NO),
    ("5 \\in \\{5\\}", "5", NO),
    ("\\overline{A}", "A", NO),
    ("A'", "A", NO),
    ("|A|", "A", NO),
    ("\\bar{x}", "x", NO),
    ("f'(x)", "f(x)", NO),
    ("tea", "eat", NO),
    ("20^\\circ C", "20^\\circ F", NO),
    ("\\frac{0}{0}", "0", NO),
    ("0^0", "1", NO),
    ("\\ln 0", "-\\infty", NO),
    ("x=5, x=6", "5", NO),
    ("5, 5", "5", NO),
    ("2\\sqrt{3}", "2+\\sqrt{3}", NO),
    ("1/2x", "\\frac{1}{2x}", NO),
    ("(1,2)\\cup(3,4)", "(1,2),(3,4)", NO),
    ("1:2", "2:1", NO),
    ("12", "dozen", NO),
)
def test_what_only_looks_like_the_gold_is_not_paid(answer: str, gold: str, expected: bool) -> None:
    assert is_right(answer, gold) is expected


def test_a_long_list_of_expressions_ends_in_time() -> None:
    answer = ", ".join(f"\\sqrt{{{number}+\\pi}}" for number in range(120))
    gold = ", ".join(f"\\sqrt{{{number}+\\pi+e^{{-{number}}}}}" for number in range(120))
    assert not is_right(answer, gold)
