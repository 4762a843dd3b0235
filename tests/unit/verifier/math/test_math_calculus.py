"""Sums, definite integrals and limits that an answer leaves to the judge."""

from fractions import Fraction

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.decide.symbolic_child import prove
from oprime_verifier.math.read.cleanup import clean
from oprime_verifier.math.read.parser import parse
from oprime_verifier.math.read.tokens import tokenize
from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.values import EXPRESSIONS, Add, Expr, Num
from oprime_verifier.math.verifier import verify_math


def expression(text: str) -> Expr:
    value = parse(tokenize(clean(text)))
    assert isinstance(value, EXPRESSIONS)
    return value


def judged(answer: str, gold: str) -> Verdict:
    return verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True})).verdict


EQUAL = (
    ("\\int_0^1 x^2\\,dx", "\\frac13"),
    ("\\int_{0}^{1} x^2 dx", "\\frac13"),
    ("\\int_0^1 2x\\,dx", "1"),
    ("\\int_0^1 200x\\,dx", "100"),
    ("\\int_0^\\pi \\sin x\\,dx", "2"),
    ("\\int_0^\\infty e^{-x}dx", "1"),
    ("\\int_0^\\infty e^{-x}\\,\\mathrm{d}x", "1"),
    ("\\int_0^1 x\\,dx + 1", "\\frac32"),
    ("2\\int_0^\\infty e^{-x}dx", "2"),
    ("\\int_0^x t\\,dt", "\\frac{x^2}{2}"),
    ("\\int_0^1 (1+t^2)\\,dt", "\\frac43"),
    ("\\int_0^1 x\\,dx", "\\int_0^1 t\\,dt"),
    ("\\lim_{x\\to0}\\frac{\\sin x}{x}", "1"),
    ("\\lim_{x \\to \\infty} \\frac{1}{x}", "0"),
    ("\\lim_{n\\to\\infty}\\left(1+\\frac1n\\right)^n", "e"),
    ("\\lim_{x\\to 2} x^2", "4"),
    ("\\lim_{x\\to0^+}\\frac{|x|}{x}", "1"),
    ("\\lim_{x\\to0^-}\\frac{|x|}{x}", "-1"),
    ("\\lim_{h\\to0}\\frac{(x+h)^2-x^2}{h}", "2x"),
    ("\\lim_{x\\to\\infty}(\\sqrt{x^2+x}-x)", "\\frac12"),
    ("\\lim_{x\\to-\\infty}\\frac{x}{\\sqrt{x^2+1}}", "-1"),
    ("\\lim_{x\\to0}x\\ln x", "0"),
    ("\\lim_{x\\to0^{+}}x\\ln x", "0"),
    ("\\int_0^1\\int_0^1 xy\\,dx\\,dy", "\\frac14"),
    ("\\int_0^1\\int_0^x y\\,dy\\,dx", "\\frac16"),
    ("\\int_1^e \\frac{1}{x}\\,dx", "1"),
    ("\\int_0^{\\pi/2}\\cos^2 x\\,dx", "\\frac\\pi4"),
    ("\\int_{-\\infty}^{\\infty}e^{-x^2}\\,dx", "\\sqrt\\pi"),
    ("\\int_0^1 \\frac{1}{1+x^2}dx", "\\frac\\pi4"),
    ("\\pi\\int_0^1 x^4\\,dx", "\\frac\\pi5"),
    ("\\lim_{x\\to0}\\frac{1-\\cos x}{x^2}", "\\frac12"),
    ("\\lim_{n\\to\\infty}\\frac{n^2}{2^n}", "0"),
    ("\\int_0^1 dx", "1"),
    ("\\int_0^{2\\pi}\\sin x\\,dx", "0"),
)
DIFFERENT = (
    ("\\int_0^1 x^2\\,dx", "\\frac12"),
    ("\\int_0^\\infty e^{-x}dx", "2"),
    ("\\int x\\,dx", "\\frac{x^2}{2}"),
    ("\\int_0^1 x", "\\frac12"),
    ("\\int_{-1}^1 \\frac{1}{x}\\,dx", "0"),
    ("\\lim_{x\\to 2} x^2", "5"),
    ("\\lim_{x\\to0}\\frac{\\sin x}{x}", "0"),
    ("\\lim_{x\\to0}\\frac{|x|}{x}", "1"),
    ("\\lim_{x\\to\\infty}\\sin x", "0"),
    ("\\lim_{x\\to-\\infty}\\frac{x}{\\sqrt{x^2+1}}", "1"),
    ("\\lim_{x\\to0}\\frac1x", "\\infty"),
    ("\\int_{-\\infty}^{\\infty}e^{-x^2}\\,dx", "\\pi"),
    ("\\int_{-1}^{1}\\frac{1}{x^2}\\,dx", "-2"),
    ("\\int_0^1 x^2\\,dx", "0.33"),
    ("\\lim_{n\\to\\infty}(-1)^n", "1"),
)


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_an_integral_or_limit_is_its_value(answer: str, gold: str) -> None:
    # The proof itself, without the deadline that a busy machine might miss.
    assert prove(expression(gold), expression(answer)) is True


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_an_integral_or_limit_is_no_other_value(answer: str, gold: str) -> None:
    assert judged(answer, gold) is not Verdict.CORRECT


@pytest.mark.parametrize(("answer", "gold"), [("\\int_0^1 x^2\\,dx = \\frac12", "\\frac12"), ("\\lim_{x\\to0}\\frac{\\sin x}{x} = 2", "2")])
def test_a_false_equation_does_not_claim_its_right_side(answer: str, gold: str) -> None:
    assert judged(answer, gold) is not Verdict.CORRECT


def test_a_number_behind_a_bound_without_braces_belongs_to_the_integrand() -> None:
    assert expression("\\int_0^1 200x\\,dx") == expression("\\int_{0}^{1} (200x)\\,dx")


def test_sums_side_by_side_share_one_budget_of_terms() -> None:
    one = expression("\\sum_{k=1}^{600} k")
    assert one == Num(Fraction(600 * 601, 2))
    two = expression("\\sum_{k=1}^{600} k + \\sum_{k=1}^{601} k")
    assert exact.rational(two) is None


def test_of_many_long_sums_only_as_many_as_the_budget_allows_are_computed() -> None:
    value = expression("+".join(f"\\sum_{{k=1}}^{{999}} k^{{{number}}}" for number in range(2, 99)))
    assert isinstance(value, Add)
    assert [isinstance(term, Num) for term in value.terms] == [True] + [False] * 96
