"""When the paper's evaluation takes two answers as equal. Pure, but for the process that proves equality of expressions.

The rules are those of the authors' scripts and of the Qwen2.5-Math harness that they ran, restated. One thing is not theirs: they hand
expressions to sympy, whose parser evaluates text as Python, and give up after some seconds. Here oprime's own reader compares them, with
the policies off by which it accepts more than they do.
"""

import math
import re
from collections.abc import Callable, Sequence

from oprime_verifier.math.decide.verdicts import Same
from oprime_verifier.math.options import MathOptions
from oprime_verifier.math.verifier import decide
from oprime_verifier.paper.extraction import MOST_CHARS

TOLERANCE = 1e-4
"""Relative; a factor of 100 either way is equal as well, for percentages."""
EXPRESSIONS = MathOptions(
    bare=True,
    relative_tolerance=TOLERANCE,
    percent_bare=False,
    unit_optional=False,
    unit_conversion=False,
    degrees_radians=False,
    base_optional=False,
    list_order="kept",
    inequality_for_interval=False,
)
_BRACKETS = str.maketrans("", "", "{}()")
_DOLLARS = re.compile(r"\$\d+(\.\d+)?")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\\?%")
_CHOICE = re.compile(r"\b[A-E]\b")

Equal = Callable[[str, str], bool]


def boxed_equal(answer: str, gold: str) -> bool:
    """AIME, AMC, MATH-500. With pi, the number 3.14 is tried for it, too."""
    if "\\pi" not in answer and "\\pi" not in gold:
        return _boxed_equal(answer, gold)
    return _boxed_equal(answer, gold) or _boxed_equal(_with_314(answer), _with_314(gold))


def _boxed_equal(answer: str, gold: str) -> bool:
    normal = _normal(answer), _normal(gold)
    if None in normal:
        return False
    one, other = (text[:MOST_CHARS] for text in normal if text is not None)
    if one.strip().lower() == other.strip().lower() or one.replace(" ", "") == other.replace(" ", ""):
        return True
    numbers = _number(one), _number(other)
    if numbers[0] is not None and numbers[1] is not None:
        return _close(numbers[0], numbers[1])
    return bool(one.strip()) and _boxed_expressions_equal(one.strip(), other.strip())


def _boxed_expressions_equal(one: str, other: str) -> bool:
    if _without_brackets(one, other) or _same_parts(one, other, _boxed_equal):
        return True
    if "," in one and "," in other and one.count(",") == other.count(","):
        return _all_equal(one.split(","), other.split(","), _boxed_equal)
    return _same_expression(one, other)


def _normal(text: str) -> str | None:
    """Without a dollar or per cent sign, or the base of a number; None for a text with an index that is no base: it is never right."""
    if _DOLLARS.match(text):
        return text[1:]
    if (percent := _PERCENT.fullmatch(text)) is not None:
        return percent[1]
    if "_" not in text:
        return text
    number = _number(text.partition("_")[0])
    return None if number is None or not math.isfinite(number) else str(int(number))


def _with_314(text: str) -> str:
    return text.replace("\\pi", "(3.14)")


def harness_equal(answer: str, gold: str) -> bool:
    """Minerva Math, OlympiadBench."""
    one, other = answer.strip(), gold.strip()
    if one.lower() == other.lower():
        return True
    if other in ("A", "B", "C", "D", "E") and _choice(one) == other:
        return True
    numbers = _digits(one), _digits(other)
    if numbers[0] is not None and numbers[1] is not None:
        return _close(numbers[0], numbers[1])
    if not one:
        return False
    if _without_brackets(one, other, any_case=True) or _same_parts(one, other, harness_equal):
        return True
    return _same_equation(one, other) or _same_expression(one, other)


def _same_equation(one: str, other: str) -> bool:
    """Sides may be swapped; a label of one or two letters before `=` may be left out."""
    left, right = one.split("="), other.split("=")
    if len(left) == len(right) == 2:
        return any(_same_expression(f"{left[0]}-({left[1]})", f"{a}-({b})") for a, b in (right, right[::-1]))
    if len(left) == 2 and len(right) == 1 and len(left[0].strip()) <= 2:
        return harness_equal(left[1], other)
    if len(right) == 2 and len(left) == 1 and len(right[0].strip()) <= 2:
        return harness_equal(one, right[1])
    return False


def _choice(text: str) -> str:
    found = _CHOICE.findall(text.upper())
    return found[-1] if found else text.strip().strip(".")


def _close(one: float, other: float) -> bool:
    return any(math.isclose(one, factor * other, rel_tol=TOLERANCE) for factor in (0.01, 1.0, 100.0))


def _number(text: str) -> float | None:
    try:
        return float(text.replace("{,}", "").replace(",", ""))
    except ValueError:
        return None


def _digits(text: str) -> float | None:
    """A number, or a percentage as a share."""
    plain = text.replace(",", "")
    try:
        return float(plain)
    except ValueError:
        pass
    if not plain.endswith("%"):
        return None
    try:
        return float(plain[:-1].removesuffix("\\")) / 100
    except ValueError:
        return None


def _without_brackets(one: str, other: str, *, any_case: bool = False) -> bool:
    """Whether they are the same text once brackets are left out."""
    pair = [one, other]
    if (_encloses(one, "[", "]") and not other.startswith("(")) or (_encloses(one, "(", ")") and not other.startswith("[")):
        pair = [text.strip("[]()") for text in pair]
    plain = [text.translate(_BRACKETS) for text in pair]
    return plain[0].lower() == plain[1].lower() if any_case else plain[0] == plain[1]


def _encloses(text: str, opening: str, closing: str) -> bool:
    return text.startswith(opening) and text.endswith(closing)


def _same_parts(one: str, other: str, equal: Equal) -> bool:
    """Tuples and intervals, part by part."""
    in_brackets = all(len(text) > 2 and text[0] in "([" and text[-1] in ")]" for text in (one, other))
    alike = equal is harness_equal or (one[0] == other[0] and one[-1] == other[-1])
    if not in_brackets or not alike:
        return False
    left, right = one[1:-1].split(","), other[1:-1].split(",")
    return len(left) == len(right) and (len(left) > 1 or left != [one]) and _all_equal(left, right, equal)


def _all_equal(left: Sequence[str], right: Sequence[str], equal: Equal) -> bool:
    return len(left) == len(right) and all(equal(a.strip(), b.strip()) for a, b in zip(left, right, strict=True))


def _same_expression(one: str, other: str) -> bool:
    """An equation never equals a value: labels have their own rule."""
    return ("=" in one) == ("=" in other) and decide(other, one, EXPRESSIONS)[0] is Same.YES
