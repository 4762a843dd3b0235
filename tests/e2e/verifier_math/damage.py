"""Ways to damage a gold so that it means something else. Each gives the damaged texts of a gold; none where it has no such part."""

import re
from collections.abc import Callable, Iterator
from itertools import islice

MAX_PER_WAY = 3
"""Damaged texts of one gold and one way."""

_COMMAND_OR_LETTER = re.compile(r"\\[a-zA-Z]+(?:\s*\{[a-zA-Z ]*\})?|[a-zA-Z]")
_LABEL = re.compile(r"^(\$?)([a-zA-Z](?:_\{?\w\}?)?)(\([a-z]\))?(\s*=)")
_ARGUMENT = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])\(([^()]*)\)(?!\^)")
_EXPONENT = re.compile(r"\^(?:\{([^{}]+)\}|(\w))")
_INDEX = re.compile(r"_(?:\{(\w+)\}|(\w))")
_UNIT = re.compile(r"\\(?:text|mathrm|textrm)\s*\{\s*([a-zA-Z/ ]+?)\s*\}")
_ITEMS = re.compile(r"([(\[<])([^()\[\]]+?),([^()\[\],]+)")
_FRACTION = re.compile(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}")
_BASE = re.compile(r"(?<![\d.])(\d+|e)(?=\^)")
_NUMBER = re.compile(r"(?<![\d.^_{])\d+(?![\d.])")
_FUNCTIONS = (
    ("\\sin", "\\cos"), ("\\cos", "\\sin"), ("\\tan", "\\sin"), ("\\arctan", "\\arcsin"), ("\\arcsin", "\\arccos"), ("\\sqrt", "\\ln"),
    ("\\ln", "\\sqrt"), ("\\log", "\\cos"), ("\\binom", "\\frac"), ("\\lfloor", "\\lceil"), ("\\lceil", "\\lfloor"), ("\\max", "\\min"),
    ("\\min", "\\max"), ("\\cup", "\\cap"), ("\\sum", "\\prod"), ("\\pi", "e"), ("\\infty", "0"),
)  # fmt: skip
_RELATIONS = (("\\leq", "<"), ("\\geq", ">"), ("\\le", "<"), ("\\ge", ">"), ("<", ">"), (">", "<"), ("\\neq", "="))
_BRACKETS = (("(", "["), ("[", "("), (")", "]"), ("]", ")"))


def _replaced(text: str, pattern: re.Pattern[str], change: Callable[[re.Match[str]], str]) -> Iterator[str]:
    for found in pattern.finditer(text):
        yield text[: found.start()] + change(found) + text[found.end() :]


def label_renamed(text: str) -> Iterator[str]:
    """y = 2x as q = 2x."""
    yield from _replaced(text, _LABEL, lambda found: f"{found[1]}{'q' if found[2][0] != 'q' else 'w'}{found[3] or ''}{found[4]}")


def label_appended(text: str) -> Iterator[str]:
    """y = 2x as yq = 2x."""
    yield from _replaced(text, _LABEL, lambda found: f"{found[1]}{found[2]}q{found[3] or ''}{found[4]}")


def argument_changed(text: str) -> Iterator[str]:
    """v(0) as v(0+3)."""
    yield from _replaced(text, _ARGUMENT, lambda found: f"{found[1]}({found[2]}+3)")


def argument_dropped(text: str) -> Iterator[str]:
    """v(0) as v."""
    yield from _replaced(text, _ARGUMENT, lambda found: found[1])


def exponent_changed(text: str) -> Iterator[str]:
    """x^2 as x^{2+1}."""
    yield from _replaced(text, _EXPONENT, lambda found: f"^{{{found[1] or found[2]}+1}}" if "circ" not in found[0] else "^{2}")


def exponent_dropped(text: str) -> Iterator[str]:
    """x^2 as x."""
    yield from (damaged for damaged in _replaced(text, _EXPONENT, lambda found: "" if "circ" not in found[0] else "^{3}"))


def sign_flipped(text: str) -> Iterator[str]:
    """1 + x as 1 - x."""
    yield from _replaced(text, re.compile(r"(?<![eE^{(\[,=&])\s*[+-]"), lambda found: "-" if "+" in found[0] else "+")
    if not re.search(r"^\$?\s*-|^\$?[0.]+\$?$|[=<>,]|\\(?:text|in|cup)", text):
        yield f"-({text.strip('$')})"


def unit_exchanged(text: str) -> Iterator[str]:
    """5 cm as 5 kg."""
    yield from _replaced(text, _UNIT, lambda found: "\\text{ kg}" if "kg" not in found[1] else "\\text{ m}")


def number_word_added(text: str) -> Iterator[str]:
    """5 as 5 squared."""
    if re.fullmatch(r"\$?-?\d+\$?", text) and text.strip("$") not in ("-1", "0", "1"):
        yield from (f"{text.strip('$')}\\text{{ {word}}}" for word in ("squared", "halves", "hundredths", "n"))


def order_exchanged(text: str) -> Iterator[str]:
    """(1, 2) as (2, 1)."""
    yield from _replaced(text, _ITEMS, lambda found: f"{found[1]}{found[3]},{found[2]}")


def bracket_exchanged(text: str) -> Iterator[str]:
    """(0, 1] as [0, 1]."""
    if re.fullmatch(r"\$?(?:\\left)?[(\[][^()\[\]]+,[^()\[\]]+[)\]]\$?", text):
        yield from (text.replace(old, new, 1) for old, new in _BRACKETS if old in text and "\\infty" not in text)


def index_changed(text: str) -> Iterator[str]:
    """x_1 as x_{1k}."""
    yield from _replaced(text, _INDEX, lambda found: f"_{{{found[1] or found[2]}k}}")


def base_changed(text: str) -> Iterator[str]:
    """2^x as 7^x."""
    yield from _replaced(text, _BASE, lambda found: "7" if found[1] != "7" else "5")


def function_exchanged(text: str) -> Iterator[str]:
    """sin x as cos x."""
    for old, new in _FUNCTIONS:
        if re.search(rf"{re.escape(old)}(?![a-zA-Z])", text):
            yield re.sub(rf"{re.escape(old)}(?![a-zA-Z])", lambda _, new=new: new, text, count=1)


def relation_exchanged(text: str) -> Iterator[str]:
    """x <= 1 as x < 1."""
    for old, new in _RELATIONS:
        if re.search(rf"{re.escape(old)}(?![a-zA-Z])", text):
            yield re.sub(rf"{re.escape(old)}(?![a-zA-Z])", lambda _, new=new: f"{new} ", text, count=1)


def fraction_turned(text: str) -> Iterator[str]:
    """1/2 as 2/1."""
    yield from _replaced(text, _FRACTION, lambda found: f"\\frac{{{found[2]}}}{{{found[1]}}}")


def variable_renamed(text: str) -> Iterator[str]:
    """One letter at one place as another one, so that x + x is x + w."""

    def change(found: re.Match[str]) -> str:
        return found[0] if len(found[0]) > 1 or found[0] in "eidqw" else "w"

    if not re.search(r"\\(?:text|mathrm|begin|operatorname|mbox)|[a-zA-Z]{3}", re.sub(r"\\[a-zA-Z]+", "", text)) and "\\text" not in text:
        yield from _replaced(text, _COMMAND_OR_LETTER, change)


def number_changed(text: str) -> Iterator[str]:
    """12 as 13."""
    yield from _replaced(text, _NUMBER, lambda found: str(int(found[0]) + 1))


WAYS: tuple[Callable[[str], Iterator[str]], ...] = (
    label_renamed,
    label_appended,
    argument_changed,
    argument_dropped,
    exponent_changed,
    exponent_dropped,
    sign_flipped,
    unit_exchanged,
    number_word_added,
    order_exchanged,
    bracket_exchanged,
    index_changed,
    base_changed,
    function_exchanged,
    relation_exchanged,
    fraction_turned,
    variable_renamed,
    number_changed,
)


def damaged(text: str) -> Iterator[tuple[str, str]]:
    """(name of the way, damaged text), each text once."""
    for way in WAYS:
        texts = dict.fromkeys(one for one in way(text) if one.replace(" ", "") != text.replace(" ", ""))
        yield from ((way.__name__, one) for one in islice(texts, MAX_PER_WAY))
