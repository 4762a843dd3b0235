"""From an answer's text to its value: multiple-choice letters, words, and mathematics."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from oprime_verifier.math.read import words
from oprime_verifier.math.read.applied import applied_names, bare_names
from oprime_verifier.math.read.cleanup import clean, spelled
from oprime_verifier.math.read.conditions import with_conditions, with_parameter
from oprime_verifier.math.read.names import word_value
from oprime_verifier.math.read.parser import parse
from oprime_verifier.math.read.tokens import has_thousands, may_have_letters_as_unit, tokenize
from oprime_verifier.math.read.units import make_unit
from oprime_verifier.math.tree.build import replaced
from oprime_verifier.math.tree.values import (
    DEGREE,
    EXPRESSIONS,
    ONE,
    Bracketed,
    Choice,
    Items,
    Num,
    Quantity,
    Relation,
    SetOf,
    TooLargeError,
    UnreadableError,
    Value,
    Words,
    walk,
)

MAX_ANSWER_CHARS = 4096
MAX_PROSE_WORDS = 6
"""Longer text is a sentence: two different ones may say the same."""

_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textsf)\s*\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Z])\s*\]|([A-Z])\s*[).:])\s*(.*)", re.DOTALL | re.IGNORECASE
)
_BARE_CHOICE = re.compile(r"(?:(?i:option|choice|answer)\s*:?\s+)?([A-Z])|(?i:option|choice)\s*:?\s+([a-j])")
_SMALL_CHOICES = "abcdefghij"
_OTHER_CHOICE = re.compile(r"^(?:,|;|and\b|or\b|&|[+\-*/^=<>!_'])|\([A-Z]\)", re.IGNORECASE)
_PROSE = re.compile(r"[^\W\d_]+(?:[ ,.'-]+[^\W\d_]+)*[.!?]?")
# Three digits behind a comma are thousands, unless nothing but zeros stands before it.
_DECIMAL_COMMA = re.compile(r"(-?0+|-?\d+(?=,(?:\d{1,2}|\d{4,})$)),(\d+)")
# No coordinate is written with zeros in front.
_BRACKETED_THOUSANDS = re.compile(r"\((?=[\d,]*,0)\d{1,3}(?:,\d{3})+\)")
_LOWER_HEXADECIMAL = re.compile(r"\d[0-9a-f]{0,64}\s*_\s*(?:16|\{\s*16\s*\})")
_HALF_LINE_BRACKETS = re.compile(r"([\[\]])([^\[\]]{0,200}[,;][^\[\]]{0,200})([\[\]])")
_NAME_BEFORE_BRACKET = re.compile(r"[\w}']\s*(?:\\left\s*)?\(")
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)}|{'|'.join(month[:3] for month in _MONTHS)}|sept)\\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>\d{4}))?"
_DATES = tuple(re.compile(f"(?:the )?{order}{_YEAR}") for order in (rf"{_DAY}(?:\s+of)?\s+{_MONTH}", rf"{_MONTH}\s+{_DAY}"))
_ANSWER_IS = re.compile(
    r"(?P<font>\\(?:text|textbf|textrm|mathrm|mbox)\s*\{)?\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?"
    r"(?:(?:final|correct)\s+)?(?:answer|option|choice)\s*(?:is\s*:?|:)\s*(?P<close>\})?\s*(?=\S)",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"(1[0-2]|0?[1-9])(?::([0-5]\d))?\s*(am|pm|AM|PM|[aApP]\.\s?[mM])\.?")


@dataclass(frozen=True, slots=True)
class Reading:
    text: str
    """Cleaned, without spaces."""
    value: Value | None
    """None for what is not read."""
    other: Value | None = None
    """A second reading, where commas may be thousands separators or separate items, or letters may be digits or a unit."""
    problem: str = ""
    too_large: bool = False
    written: str = ""
    """Cleaned, with its spaces."""
    variables: frozenset[str] = frozenset()
    """Names that stand alone somewhere, so that they are factors where brackets follow."""
    applied: frozenset[str] = frozenset()
    """Names that are read as functions and might be factors."""

    @property
    def is_prose(self) -> bool:
        """Whether it is a sentence, so that another sentence may mean the same."""
        return self.value is None or (isinstance(self.value, Words) and len(self.value.text.split()) > MAX_PROSE_WORDS)


def read(text: str, factors: frozenset[str] = frozenset()) -> Reading:
    """Never raises for any text. Names among `factors` are factors where brackets follow, and so are the text's own variables."""
    return _read(text, factors if factors and _NAME_BEFORE_BRACKET.search(text) else frozenset[str]())


@lru_cache(maxsize=4096)
def _read(text: str, factors: frozenset[str]) -> Reading:
    if len(text) > MAX_ANSWER_CHARS:
        problem = f"the answer has {len(text)} characters; at most {MAX_ANSWER_CHARS} are graded"
        return Reading(spelled(text), None, problem=problem, too_large=True)
    cleaned = clean(text)
    try:
        value = _value(cleaned, factors)
        variables = bare_names(value)
        has_brackets = "(" in cleaned or "[" in cleaned
        if has_brackets and (own := applied_names(value) & variables):
            factors |= own
            value = _value(cleaned, factors)
        other = _other_value(cleaned, factors)
    except TooLargeError as error:
        return Reading(spelled(cleaned), None, problem=str(error), too_large=True)
    except UnreadableError as error:
        return Reading(spelled(cleaned), _as_words(cleaned), problem=str(error))
    except RecursionError:
        return Reading(spelled(cleaned), None, problem="the answer is nested too deeply", too_large=True)
    second = None if other == value else other
    applied = applied_names(value) if has_brackets else frozenset[str]()
    return Reading(spelled(cleaned), value, second, written=cleaned, variables=variables, applied=applied)


def _other_value(cleaned: str, factors: frozenset[str]) -> Value | None:
    """The second reading of a text that has two: commas between items, 2b_{16} in base 16, or cm behind a symbol as c times m."""
    if has_thousands(cleaned):
        return _value(cleaned, factors, thousands=False)
    if may_have_letters_as_unit(cleaned):
        return _value(cleaned, factors, units=False)
    return _value(cleaned.upper(), factors) if _LOWER_HEXADECIMAL.fullmatch(cleaned) else None


def _value(cleaned: str, factors: frozenset[str], *, thousands: bool = True, units: bool = True) -> Value:
    cleaned = _without_announcement(cleaned)
    special = _choice(cleaned) or _time_of_day(cleaned) or _date(cleaned)
    if special is not None:
        return special
    if _PROSE.fullmatch(cleaned) and _is_words(cleaned):
        return word_value(cleaned)
    cleaned = with_parameter(_with_round_brackets(cleaned))
    if thousands and _BRACKETED_THOUSANDS.fullmatch(cleaned):
        cleaned = cleaned[1:-1]
    return finished(parse(tokenize(cleaned, thousands=thousands, units=units), factors))


def _with_round_brackets(cleaned: str) -> str:
    """]0,1] and [0,1[ as (0,1] and [0,1)."""
    if "[" not in cleaned and "]" not in cleaned:
        return cleaned
    brackets = re.findall(r"[\[\]]", cleaned)
    pairs = list(zip(brackets[::2], brackets[1::2], strict=False))
    if len(brackets) % 2 or all(pair == ("[", "]") for pair in pairs) or "\\sqrt[" in cleaned or "\\sqrt [" in cleaned:
        return cleaned
    return _HALF_LINE_BRACKETS.sub(lambda found: f"{'[' if found[1] == '[' else '('}{found[2]}{']' if found[3] == ']' else ')'}", cleaned)


def _date(cleaned: str) -> Value | None:
    """A day of the year in one spelling, from `June 20th`, `20 June` and `the 20th of June, 2025`."""
    if not any(month[:3] in cleaned.lower() for month in _MONTHS):
        return None
    plain = " ".join(_WRAPPERS.sub(r" \1 ", cleaned).replace("\\ ", " ").lower().split())
    found = next(filter(None, (pattern.fullmatch(plain) for pattern in _DATES)), None)
    return Words(f"{found['month'][:3]} {int(found['day'])} {found['year'] or ''}".strip()) if found else None


def _without_announcement(cleaned: str) -> str:
    """What stands behind `the answer is`, in the same font."""
    found = _ANSWER_IS.match(cleaned)
    if not found or (found["close"] and not found["font"]):
        return cleaned
    rest = cleaned[found.end() :]
    rest = rest[1:-1] if rest.count('"') == 2 and rest[0] == rest[-1] == '"' else rest
    return f"{found['font']}{rest}" if found["font"] and not found["close"] else rest


def _time_of_day(cleaned: str) -> Value | None:
    """10:45 a.m., in one spelling. Without minutes or dots, `pm` may be picometres."""
    plain = _WRAPPERS.sub(r" \1 ", cleaned).replace("\\ ", " ")
    found = _CLOCK.fullmatch(" ".join(plain.split()))
    if not found or not (found[2] or "." in cleaned or found[3].isupper()):
        return None
    return Words(f"{int(found[1])}:{found[2] or '00'} {found[3][0].lower()}m")


def _choice(cleaned: str) -> Value | None:
    plain = _WRAPPERS.sub(r"\1", cleaned).replace("\\ ", " ").strip()
    bare = _BARE_CHOICE.fullmatch(plain)
    if bare:
        return Choice((bare[1] or bare[2]).upper())
    marked = _CHOICE.fullmatch(plain)
    if not marked or _OTHER_CHOICE.search(marked[4]):
        return None
    letter, rest = marked[1] or marked[2] or marked[3], marked[4].strip()
    if not letter.isupper() and not _is_small_choice(letter, rest, in_brackets=bool(marked[1])):
        return None
    return Choice(letter, read(rest).value if rest else None)


def _is_small_choice(letter: str, rest: str, *, in_brackets: bool) -> bool:
    """(b), b) and `(b) 12`, which name an option; (x) 5 names none, and (a)(b) is a product."""
    return letter in _SMALL_CHOICES and (not rest or (in_brackets and (rest[0].isdigit() or rest.startswith(("\\$", "\\text")))))


def _as_words(cleaned: str) -> Value | None:
    plain = _WRAPPERS.sub(r" \1 ", cleaned)
    return word_value(plain) if _PROSE.fullmatch(plain.strip()) and not _is_program(plain) else None


def _is_words(text: str) -> bool:
    """Whether a text of letters is words: some of them long, none of them mathematics."""
    parts = re.findall(r"[^\W\d_]+", text.lower())
    mathematics = words.FUNCTIONS | words.CONSTANTS.keys() | words.JOINERS.keys() | words.MAGNITUDES.keys() | words.PYTHON_WORDS
    return "," not in text and any(len(part) >= 4 and set(part) & set("aeiouy") for part in parts) and not mathematics & set(parts)


def _is_program(text: str) -> bool:
    return any(word in words.PYTHON_WORDS for word in text.split()) and len(text.split()) > 1


def finished(value: Value) -> Value:
    """The value with angles in degrees as quantities, and with its conditions."""
    return with_conditions(_in_degrees(value))


def _in_degrees(value: Value) -> Value:  # noqa: PLR0911 - one line for each kind of value
    if isinstance(value, EXPRESSIONS):
        if not any(part == DEGREE for part in walk(value)):
            return value
        return Quantity(replaced(value, DEGREE, ONE), make_unit((("degree", 1),)))
    if isinstance(value, Items):
        return Items(tuple(_in_degrees(item) for item in value.items), value.joiner)
    if isinstance(value, Bracketed):
        return Bracketed(tuple(_in_degrees(item) for item in value.items), value.opening, value.closing)
    if isinstance(value, SetOf):
        return SetOf(tuple(_in_degrees(item) for item in value.items))
    if isinstance(value, Relation):
        return Relation(tuple(_in_degrees(side) for side in value.sides), value.operators)
    return value


def decimal_comma(text: str) -> Num | None:
    """12,5 as the decimal that it is where commas are points; None for other texts."""
    match = _DECIMAL_COMMA.fullmatch(text)
    if not match or len(text) > MAX_ANSWER_CHARS // 2:
        return None
    decimals = match[2]
    value = Fraction(int(match[1].lstrip("-") + decimals), 10 ** len(decimals))
    return Num(-value if text.startswith("-") else value, len(match[1] + decimals))
