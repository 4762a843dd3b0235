"""Plain readings of a mathematical answer: cleaned text, exact rational, words; and what must not be evaluated."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 4000
"""Below Python's own limit for turning text into an integer."""
MAX_DECIMAL_EXPONENT = 999
MAX_NESTING = 64

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2014\ufe63\uff0d", "-"),
        **dict.fromkeys("\xa0\u2009\u202f\u3000~", " "),
        **{chr(ord("\uff10") + digit): str(digit) for digit in range(10)},
        **{power: f"^{{{number}}}" for power, number in zip("\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", range(2, 10), strict=True)},
        "\u00bd": "\\frac{1}{2}",
        "\u2153": "\\frac{1}{3}",
        "\u00bc": "\\frac{1}{4}",
        "\u00be": "\\frac{3}{4}",
        "\u00d7": "\\times ",
        "\u00b7": "\\cdot ",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u222a": "\\cup ",
        "\u00b0": "^\\circ ",
    }
)
_SPACING = re.compile(r"(?<!\\)\\[,!;:]|(?<!\\)\\ (?=\S)|[\u200b\u2060\ufeff]|\\(?:left|right)(?![a-zA-Z])|\\displaystyle")
_MATH_MODE = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$?\$|\\\)|\\\])$", re.DOTALL)
_ROOT = re.compile("\u221a\\s*(?:\\(([^()]*)\\)|([0-9A-Za-z]+))")

_NUMBER = re.compile(r"([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?)(\.[0-9]*)?")
_RATIO = re.compile(
    r"([+-]?)(?:([0-9]+)(?:\s+|\s*(?=\\)))?"  # a whole part makes it a mixed number
    r"(?:\\frac\s*\{\s*([+-]?[0-9]+)\s*\}\s*\{\s*([+-]?[0-9]+)\s*\}|\\frac\s*([0-9])([0-9])|([0-9]+)\s*/\s*([0-9]+))"
)
_REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{\s*([0-9]+)\s*\}")
_SCIENTIFIC = re.compile(
    r"([+-]?[0-9]+(?:\.[0-9]+)?)\s*(?:\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,4})\s*\}|([0-9]))|[eE]([+-]?[0-9]{1,4}))"
)
_BASED = re.compile(r"([0-9A-Z]+)_(?:\{\s*([0-9]{1,2})\s*\}|([0-9]))")

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")

_UNSAFE = (
    (re.compile(r"(?:\^|\*\*)\s*[{(]?\s*[+-]?\s*[0-9]{5,}"), "an exponent has more than 4 digits"),
    (re.compile(r"(?:\^|\*\*)\s*[{(]?\s*[0-9.]+\s*[})]?\s*(?:\^|\*\*)"), "powers of powers grow too fast"),
    (re.compile(r"[0-9]{5,}\s*[})]?\s*!|!\s*[})]?\s*!"), "a factorial is too large"),
    (re.compile(r"\\[dt]?binom(?=.*[0-9]{5,})"), "a binomial coefficient is too large"),
    (re.compile(r"(?:\^|\*\*)\s*[{(]?[^{}()]*!"), "an exponent holds a factorial"),
    (re.compile(rf"[0-9]{{{MAX_DIGITS},}}"), f"a number has {MAX_DIGITS} digits or more"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rational:
    value: Fraction
    is_decimal: bool
    """Written with a decimal point, and therefore perhaps rounded."""


def clean(text: str) -> str:
    """Remove mathematics mode, spacing commands and a final stop; write common Unicode as LaTeX."""
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text.translate(_CHARACTERS))
    text = _SPACING.sub("", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip()
    wrapped = _MATH_MODE.match(text)
    if wrapped and "$" not in wrapped[1]:
        text = wrapped[1]
    text = text.removeprefix("\\$").removeprefix("$").strip()
    return text.rstrip(" .") if not text.endswith("..") else text.strip()


def plain_rational(text: str) -> Rational | None:
    """The exact value of an integer, decimal, repeating decimal, power of ten, based number or ratio of integers; else None."""
    if len(text) > MAX_DIGITS:
        return None
    readers = (_decimal, _ratio, _repeating, _scientific, _based)
    return next((found for reader in readers if (found := reader(text)) is not None), None)


def _decimal(text: str) -> Rational | None:
    number = _NUMBER.fullmatch(text)
    if not number or not any(character.isdigit() for character in text):
        return None
    sign, whole, decimals = number[1], number[2].replace(",", ""), number[3] or ""
    written = len(decimals) > 1
    return Rational(value=Fraction(f"{sign}{whole or '0'}{decimals if written else ''}"), is_decimal=written)


def _ratio(text: str) -> Rational | None:
    ratio = _RATIO.fullmatch(text)
    if not ratio:
        return None
    upper, lower = (int(part) for part in ratio.groups()[2:] if part is not None)
    if lower == 0 or (ratio[2] and (upper < 0 or lower < 0)):
        return None
    value = Fraction(upper, lower) + int(ratio[2] or 0)
    return Rational(value=-value if ratio[1] == "-" else value, is_decimal=False)


def _repeating(text: str) -> Rational | None:
    repeating = _REPEATING.fullmatch(text)
    if not repeating:
        return None
    sign, whole, fixed, period = repeating.groups()
    value = Fraction(f"{whole or '0'}.{fixed or '0'}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return Rational(value=-value if sign == "-" else value, is_decimal=False)


def _scientific(text: str) -> Rational | None:
    scientific = _SCIENTIFIC.fullmatch(text)
    if not scientific:
        return None
    exponent = int(next(part for part in scientific.groups()[1:] if part is not None))
    if abs(exponent) > MAX_DECIMAL_EXPONENT:
        return None
    return Rational(value=Fraction(scientific[1]) * Fraction(10) ** exponent, is_decimal=True)


def _based(text: str) -> Rational | None:
    based = _BASED.fullmatch(text)
    if not based or not 2 <= int(based[2] or based[3]) <= 36:
        return None
    try:
        return Rational(value=Fraction(int(based[1], int(based[2] or based[3]))), is_decimal=False)
    except ValueError:
        return None


def plain_text(text: str) -> str:
    """The words of an answer that is text and not a formula, such as `\\text{Tuesday}` or `(B)`; else empty."""
    words = _TEXT_COMMAND.sub(r"\1", text).strip(" .")
    if is_choice_letter(words.strip("()")):
        return words.strip("()")
    written_as_text = "\\" in text
    # A few bare letters may be a product of variables.
    enough = written_as_text or sum(character.isalpha() for character in words) >= 4
    return " ".join(words.split()) if enough and _WORDS.fullmatch(words) else ""


def is_choice_letter(text: str) -> bool:
    return len(text) == 1 and text in "ABCDEFGHIJ"


def unsafe_to_evaluate(text: str) -> str:
    """Why an answer must not reach exact arithmetic, or empty. A filter for the known bombs; the worker's deadline is the guard."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"brackets are nested {deepest} deep; at most {MAX_NESTING} are evaluated"
    return next((reason for pattern, reason in _UNSAFE if pattern.search(text)), "")
