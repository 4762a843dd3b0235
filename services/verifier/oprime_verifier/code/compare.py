"""Compare the output of a program with the expected one. Bytes stay bytes: no output is undecodable."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from oprime_verifier.code.options import Comparison
from oprime_verifier.code.values import ValueRule, matches_plain

_WHOLE = re.compile(rb"[+-]?[0-9]{1,4000}")
_NUMBER = re.compile(
    rb"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?|[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class OutputRule:
    mode: Comparison = Comparison.TOKENS
    abs_tolerance: float = 1e-6
    rel_tolerance: float = 1e-6


def outputs_match(actual: bytes, expected: bytes, rule: OutputRule) -> bool:
    return _MODES[rule.mode](actual, expected, rule)


def _exact(actual: bytes, expected: bytes, _rule: OutputRule) -> bool:
    return actual == expected


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_lines(actual: bytes, expected: bytes, _rule: OutputRule) -> bool:
    return _lines(actual) == _lines(expected)


def _same_tokens(actual: bytes, expected: bytes, _rule: OutputRule) -> bool:
    return actual.split() == expected.split()


def _same_numbers(actual: bytes, expected: bytes, rule: OutputRule) -> bool:
    ours, theirs = actual.split(), expected.split()
    return len(ours) == len(theirs) and all(
        mine == wanted or _same_number(mine, wanted, rule) for mine, wanted in zip(ours, theirs, strict=True)
    )


def _same_number(actual: bytes, expected: bytes, rule: OutputRule) -> bool:
    if not (_NUMBER.fullmatch(actual) and _NUMBER.fullmatch(expected)):
        return _WHOLE.fullmatch(actual) is not None and _WHOLE.fullmatch(expected) is not None and int(actual) == int(expected)
    mine, wanted = float(actual), float(expected)
    if not (math.isfinite(mine) and math.isfinite(wanted)):
        return mine == wanted or (math.isnan(mine) and math.isnan(wanted))
    # A whole number is a count or an index: no tolerance makes another one of it.
    if _WHOLE.fullmatch(expected) or (_WHOLE.fullmatch(actual) and wanted.is_integer()):
        return Fraction(actual.decode()) == Fraction(expected.decode())
    return abs(mine - wanted) <= max(rule.abs_tolerance, rule.rel_tolerance * abs(wanted))


def _unordered_lines(actual: bytes, expected: bytes, _rule: OutputRule) -> bool:
    ours, theirs = ([line for line in _lines(text) if line] for text in (actual, expected))
    return len(ours) == len(theirs) and sorted(ours) == sorted(theirs)


def _unordered_tokens(actual: bytes, expected: bytes, _rule: OutputRule) -> bool:
    ours, theirs = actual.split(), expected.split()
    return len(ours) == len(theirs) and sorted(ours) == sorted(theirs)


def _same_json(actual: bytes, expected: bytes, rule: OutputRule) -> bool:
    try:
        mine, wanted = json.loads(actual), json.loads(expected)
    except (ValueError, RecursionError):
        return False
    return matches_plain(mine, wanted, ValueRule(rule.abs_tolerance, rule.rel_tolerance))


_MODES: dict[Comparison, Callable[[bytes, bytes, OutputRule], bool]] = {
    Comparison.EXACT: _exact,
    Comparison.LINES: _same_lines,
    Comparison.TOKENS: _same_tokens,
    Comparison.FLOAT: _same_numbers,
    Comparison.UNORDERED_LINES: _unordered_lines,
    Comparison.UNORDERED_TOKENS: _unordered_tokens,
    Comparison.JSON: _same_json,
}
