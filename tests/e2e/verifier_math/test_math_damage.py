"""Golds of public data sets, damaged so that they mean something else: none of them is paid."""

import re
from collections.abc import Iterator

import pytest

from e2e.verifier_math.damage import WAYS, damaged
from e2e.verifier_math.verifier_math_data import golds
from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.read.extract import final_text
from oprime_verifier.math.verifier import verify_math

SETS = ("math500.json", "olympiadbench.jsonl", "minerva_math.jsonl", "aime.jsonl", "amc.jsonl")
MOST_UNDECIDED = 0.005
"""Of all damaged golds; a gold that is not read decides nothing."""

_FUNCTION_LABEL = re.compile(r"([a-zA-Z])\(([a-z])\)\s*=\s*([^=,$]*)")


def every_damaged_gold(name: str) -> Iterator[tuple[str, str, str]]:
    for gold in dict.fromkeys(map(final_text, golds(name))):
        yield from ((way, text, gold) for way, text in damaged(gold))


def is_same_after_all(way: str, gold: str) -> bool:
    """What docs/verifier.md lists as accepted: f for the label f(x), and another letter in the label of a constant."""
    labels = _FUNCTION_LABEL.findall(gold)
    if way == "argument_dropped":
        return bool(labels)
    return way == "variable_renamed" and any(variable not in value for _, variable, value in labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_no_damaged_gold_is_paid(name: str) -> None:
    paid, undecided, count = list[tuple[str, str, str]](), 0, 0
    for way, text, gold in every_damaged_gold(name):
        request = VerificationRequest(kind="math", response=text, golds=(gold,), options={"bare": True})
        verdict = verify_math(request).verdict
        count += 1
        undecided += verdict is Verdict.UNDECIDED
        if verdict is Verdict.CORRECT and not is_same_after_all(way, gold):
            paid.append((way, text, gold))
    assert paid == []
    assert undecided <= max(20, MOST_UNDECIDED * count)


def test_each_way_damages_something() -> None:
    texts = ("y_1(x)=\\sin(2x^2)+3", "(0, \\frac{1}{2}]", "5\\text{ cm}", "x\\le 7", "12", "f(x)=2^x")
    assert {way for text in texts for way, _ in damaged(text)} == {way.__name__ for way in WAYS}


@pytest.mark.parametrize(
    ("text", "way", "expected"),
    [
        ("v(0)", "argument_changed", "v(0+3)"),
        ("x^2", "exponent_dropped", "x"),
        ("y=2", "label_renamed", "q=2"),
        ("\\frac{1}{2}", "fraction_turned", "\\frac{2}{1}"),
        ("(1,2)", "order_exchanged", "(2,1)"),
    ],
)
def test_a_way_of_damage_does_what_it_says(text: str, way: str, expected: str) -> None:
    assert (way, expected) in list(damaged(text))
