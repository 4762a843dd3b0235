"""Laws that hold for every answer."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.decide.normal import normal, same
from oprime_verifier.math.decide.verdicts import Same
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.read.reader import read
from oprime_verifier.math.tree import exact
from oprime_verifier.math.tree.values import Num
from oprime_verifier.math.verifier import decide, verify_math

BARE = MathOptions(bare=True, symbolic_deadline_s=0.2)
PIECES = (
    r"\frac \sqrt { } ( ) [ ] | 1 2 10 0 x y e i \pi ^ _ + - * / = < > \le \in , ; \text{and} \text{cm} \pm \cup \infty ! % \$ \sin",
    r"\ln \log_ \sum_{k=1}^ \prod \binom \begin{pmatrix} \end{pmatrix} & \\ \{ \} ^\circ \overline 0.5 . ' \left \right \cdot",
    r"\lfloor \rfloor million 1,000 \mod \choose \over A (A) : \approx 1e5 ^{ _{ \int \lim f( ... 9^{9^ 10^{10}",
    "\u00b2 \u221a \u00bd \u0663",
)
latex = st.lists(st.sampled_from(" ".join(PIECES).split(" ")), min_size=1, max_size=14).map(" ".join)
GOLDS = (
    "5",
    "\\frac{1}{2}",
    "x^2+1",
    "(1,2)",
    "\\{1,2\\}",
    "x>2",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "A",
    "yes",
    "5\\text{ cm}",
    "\\pi",
)


def judged(answer: str, gold: str) -> Verdict:
    return verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True})).verdict


@given(latex, st.sampled_from(GOLDS))
@settings(max_examples=300)
def test_no_latex_makes_the_verifier_raise(answer: str, gold: str) -> None:
    decide(gold, answer, BARE)
    decide(answer, gold, BARE)


@given(st.text(max_size=120), st.sampled_from(GOLDS))
@settings(max_examples=300)
def test_no_text_makes_the_verifier_raise(answer: str, gold: str) -> None:
    decide(gold, answer, BARE)
    verify_math(VerificationRequest(kind="math", response=answer, golds=(gold,)))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\pi \\approx 3.1e514", "\\sqrt{x^2}"),  # larger than any float
        ("11,000!", "\\frac{1}{2}"),
        ("\\begin{pmatrix}\\pm 1\\\\ 2\\end{pmatrix}", "\\begin{pmatrix}\\pi\\\\ 2\\end{pmatrix}"),
        ("(\\pm 1, 2) \\cup (3, 4)", "(\\sqrt{2}, 2)"),
        ("((-2)^{1/2}\\cdot\\overline{i})^{1.5}", "\\pi"),  # a complex number without an imaginary part
        ("\\max(i, 2)", "\\pi"),  # complex numbers have no order
        ("((1+\\sqrt{2})^{40})^{40}^{40}", "\\pi"),
        ("10^{50 million}", "50\\%"),
    ],
)
def test_answers_that_once_broke_something(answer: str, gold: str) -> None:
    assert decide(gold, answer, BARE)[0] is not Same.YES


@given(latex)
@settings(max_examples=200)
def test_every_answer_that_can_be_graded_equals_itself(answer: str) -> None:
    if read(answer).text:
        assert decide(answer, answer, BARE)[0] is Same.YES


@given(latex, st.sampled_from(GOLDS))
@settings(max_examples=200)
def test_spaces_around_an_answer_change_nothing(answer: str, gold: str) -> None:
    assert decide(gold, answer, BARE)[0] is decide(gold, f"  {answer}\n", BARE)[0]


@given(st.integers(-(10**20), 10**20), st.integers(1, 10**9))
def test_every_way_to_write_a_ratio_has_the_same_value(upper: int, lower: int) -> None:
    sign = "-" if upper < 0 else ""
    for text in (f"{upper}/{lower}", f"\\frac{{{upper}}}{{{lower}}}", f"{sign}\\dfrac{{{abs(upper)}}}{{{lower}}}"):
        assert judged(text, f"\\frac{{{2 * upper}}}{{{2 * lower}}}") is Verdict.CORRECT


@given(st.integers(-(10**30), 10**30))
def test_thousands_separators_do_not_change_an_integer(number: int) -> None:
    assert judged(f"{number:,}", str(number)) is Verdict.CORRECT


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_two_integers_are_equal_exactly_when_they_are(left: int, right: int) -> None:
    assert (judged(str(left), str(right)) is Verdict.CORRECT) == (left == right)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_normal_forms_prove_the_distributive_law(first: Fraction, second: Fraction, third: Fraction) -> None:
    def written(value: Fraction) -> str:
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    left = f"{written(first)} (x {written(second)} + y {written(third)})".replace("(x", "(x \\cdot").replace("+ y", "+ y \\cdot")
    right = f"{written(first * second)} \\cdot x + {written(first * third)} \\cdot y"
    one, other = normal(read(left).value), normal(read(right).value)  # pyright: ignore[reportArgumentType]
    assert one is not None
    assert other is not None
    assert same(one, other)


@given(st.integers(0, 10**12), st.integers(2, 5))
def test_an_exact_root_is_found_exactly_when_there_is_one(root: int, degree: int) -> None:
    assert exact.exact_root(Fraction(root**degree), degree) == root
    if root > 1:
        assert exact.exact_root(Fraction(root**degree + 1), degree) is None


@given(st.integers(1, 10**6), st.integers(1, 6))
def test_a_repeating_decimal_is_its_fraction(period: int, zeros: int) -> None:
    digits = str(period)
    value = read(f"0.{'0' * zeros}\\overline{{{digits}}}").value
    assert isinstance(value, Num)
    assert value.value == Fraction(period, (10 ** len(digits) - 1) * 10**zeros)
