"""Compare the result of a function with the expected JSON value.

The result comes from model code as a table (`sandbox/inside/values.py`). It is read only as far as the expected value leads, so that no
table, however twisted, costs more than its expected value, and no set or dictionary is built from what model code chose.

Equal are: a tuple and a list; True and 1, 1.0 and 1 (unless types are strict); numbers with a fraction within the tolerances; the keys 1
and "1" of a dictionary, since JSON has text keys only. A set is no list, and text is no number.
"""

import math
from dataclasses import dataclass
from typing import Any

from oprime_verifier.sandbox.inside.values import encode


@dataclass(frozen=True, slots=True)
class ValueRule:
    abs_tolerance: float = 1e-6
    rel_tolerance: float = 1e-6
    strict_types: bool = False


def matches_plain(actual: Any, expected: Any, rule: ValueRule) -> bool:
    """For a value of our own making."""
    return matches(encode([actual]), expected, rule)


def matches(table: Any, expected: Any, rule: ValueRule) -> bool:
    """Whether the first root of a table is the expected value. A table that breaks the rules of tables is not."""
    try:
        return _Matcher(table["nodes"], rule).same(table["roots"][0], expected)
    except (LookupError, TypeError, ValueError, RecursionError, AttributeError):
        return False


class _Matcher:
    def __init__(self, nodes: list[Any], rule: ValueRule) -> None:
        self._nodes = nodes
        self._rule = rule

    def same(self, item: Any, expected: Any) -> bool:
        item = self._resolved(item)
        if type(item) is not list:
            return self._same_scalar(item, expected)
        node = self._nodes[item[0]]
        kind = node[0]
        if kind in ("list", "tuple", "deque", "record", "array", "iterator", "keys"):
            return self._same_list(kind, node, expected)
        if kind in ("dict", "ordered", "counter"):
            return isinstance(expected, dict) and self._same_dict(node[1:], expected)
        if kind == "int":
            return self._same_scalar(int(node[1], 16), expected)
        if kind == "float":
            return self._same_scalar(float(node[1]), expected)
        return False

    def _resolved(self, item: Any) -> Any:
        """Follow references to the plain values inside subclasses: a scalar, or the reference of a container."""
        for _ in range(len(self._nodes) + 1):
            if type(item) is not list or self._nodes[item[0]][0] != "scalar":
                return item
            item = self._nodes[item[0]][1]
        raise ValueError("a circle")

    def _same_list(self, kind: str, node: list[Any], expected: Any) -> bool:
        if not isinstance(expected, list) or (self._rule.strict_types and kind != "list"):
            return False
        if kind == "array":
            return self.same(node[1], expected)
        parts = node[3:] if kind == "record" else node[1:]
        return len(parts) == len(expected) and all(map(self.same, parts, expected))

    def _same_dict(self, parts: list[Any], expected: dict[str, Any]) -> bool:
        if len(parts) != 2 * len(expected):
            return False
        seen: set[str] = set()
        for key_item, value_item in zip(parts[::2], parts[1::2], strict=True):
            key = self._key(key_item)
            if key is None or key in seen or key not in expected or not self.same(value_item, expected[key]):
                return False
            seen.add(key)
        return True

    def _key(self, item: Any) -> str | None:
        """As JSON would write it."""
        item = self._resolved(item)
        if type(item) is list:
            return None
        if isinstance(item, bool):
            return "true" if item else "false"
        if item is None:
            return "null"
        return item if isinstance(item, str) else repr(item)

    def _same_scalar(self, actual: Any, expected: Any) -> bool:
        if isinstance(actual, str) or isinstance(expected, str) or actual is None or expected is None:
            return type(actual) is type(expected) and actual == expected
        if not isinstance(expected, int | float) or not isinstance(actual, int | float):
            return False
        if self._rule.strict_types and type(actual) is not type(expected):
            return False
        if isinstance(actual, int) and isinstance(expected, int):
            return actual == expected
        return self._same_float(actual, expected)

    def _same_float(self, actual: float, expected: float) -> bool:
        # A whole expected number is exact; a fraction is as exact as its computation.
        if isinstance(expected, int) or actual == expected:
            return actual == expected
        try:
            mine, wanted = float(actual), float(expected)
        except OverflowError:
            return False
        if math.isnan(mine) or math.isnan(wanted):
            return math.isnan(mine) and math.isnan(wanted)
        if math.isinf(mine) or math.isinf(wanted):
            return mine == wanted
        return abs(mine - wanted) <= max(self._rule.abs_tolerance, self._rule.rel_tolerance * abs(wanted))
