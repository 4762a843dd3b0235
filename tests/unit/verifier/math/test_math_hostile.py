"""Answers that are made to cost time, to end the judge, or to be paid for two things at once."""

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.verifier import verify_math


def judged(answer: str, gold: str, *, bare: bool = True) -> Verdict:
    return verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": bare})).verdict


@pytest.mark.parametrize(
    "answer",
    [
        "x^" * 500 + "x",
        "x^" * 200 + "2",
        "\\sum_{i=1}^{300}\\sum_{j=1}^{300}\\sum_{k=1}^{300} ijk",
        "\\sqrt{" * 61 + "x" + "}" * 61,
        "\\sin(" * 60 + "x" + ")" * 60,
        "max((7))",
        "max([5, 6])",
        "max([5])",
        "min([5, 6])",
        "\\gcd([5, 10])",
    ],
)
def test_what_cannot_be_read_or_computed_is_never_paid(answer: str) -> None:
    assert judged(answer, "5") is not Verdict.CORRECT


@pytest.mark.parametrize(("answer", "gold"), [("max((5))", "5"), ("\\max(5, 6)", "6"), ("\\sum_{i=1}^{10}\\sum_{j=1}^{10} ij", "3025")])
def test_their_harmless_siblings_are_read(answer: str, gold: str) -> None:
    assert judged(answer, gold) is Verdict.CORRECT


def test_two_powers_beyond_all_bounds_are_left_undecided_without_a_proof() -> None:
    assert judged("7^{1000000000}", "7^{1000000001}") is Verdict.UNDECIDED
    assert judged("7^{1000000000}", "12") is Verdict.INCORRECT


def test_a_power_of_a_base_near_one_and_a_double_factorial_are_huge_too() -> None:
    assert judged("(1+10^{-9})^{10^{18}}", "5") is Verdict.INCORRECT
    assert judged("(10^6)!!", "5") is Verdict.INCORRECT
    assert judged("(1+10^{-9})^{10^9}", "e") is Verdict.INCORRECT


@pytest.mark.parametrize(("answer", "gold"), [("10\\text{ cm}", "10\\text{ in}"), ("1,000", "1.000"), ("1,234", "1.234")])
def test_an_inch_is_a_unit_and_a_group_of_three_digits_is_no_fraction(answer: str, gold: str) -> None:
    assert judged(answer, gold) is Verdict.INCORRECT


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("5\\text{ ft}", "60\\text{ in}"), ("1\\text{ in}", "2.54\\text{ cm}"), ("5 in total", "5"), ("0,333", "0.333"), ("1,5", "1.5")],
)
def test_inches_convert_and_decimal_commas_are_read(answer: str, gold: str) -> None:
    assert judged(answer, gold) is Verdict.CORRECT


def test_a_set_that_holds_the_empty_set_is_not_empty() -> None:
    assert judged("\\{\\emptyset\\}", "\\emptyset") is not Verdict.CORRECT
    assert judged("\\{\\}", "\\emptyset") is Verdict.CORRECT


def test_of_two_statements_on_one_line_the_last_one_counts() -> None:
    response = "The answer is 3. No wait, the answer is 5."
    assert judged(response, "5", bare=False) is Verdict.CORRECT
    assert judged(response, "3", bare=False) is Verdict.INCORRECT


def test_a_function_of_very_many_cases_is_too_large_and_ends_at_once() -> None:
    cases = "\\\\".join(f"{number} & {number}<x<{number + 1}" for number in range(200))
    assert judged(f"\\begin{{cases}} {cases} \\end{{cases}}", "|x|") is Verdict.NO_ANSWER


@pytest.mark.parametrize("answer", ["(" * 300 + " integer", "[" * 200 + "," * 300, ",(" * 300 + "k \\in \\mathbb{Z})", "_" * 400 + "C_2"])
def test_texts_that_look_like_conditions_or_brackets_end_at_once(answer: str) -> None:
    assert judged(answer, "2k, k\\in\\mathbb{Z}") is not Verdict.CORRECT


def test_a_family_with_a_tiny_step_is_not_split_into_as_many_classes() -> None:
    assert judged("\\frac{k\\pi}{1000}, k\\in\\mathbb{Z}", "k\\pi, k\\in\\mathbb{Z}") is not Verdict.CORRECT
