import math
from typing import Any

import pytest

from oprime_verifier.code.compare import OutputRule, outputs_match
from oprime_verifier.code.options import Comparison
from oprime_verifier.code.values import ValueRule, matches, matches_plain
from oprime_verifier.sandbox.inside.values import encode

RULES = {mode: OutputRule(mode) for mode in Comparison}

# actual, expected, and the modes that accept the pair
OUTPUTS: list[tuple[bytes, bytes, set[str]]] = [
    (b"1 2\n", b"1 2\n", {"exact", "lines", "tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"1 2  \n3\n\n", b"1 2\n3", {"lines", "tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"1\n\n2\n", b"1\n2\n", {"tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"1\r\n2\r\n", b"1\n2\n", {"lines", "tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"yes", b"YES", set()),
    (b"0.10000001", b"0.1", {"float", "json"}),
    (b"0.1001", b"0.1", set()),
    (b"-100000001", b"-100000002", set()),
    (b"100000001.0", b"100000002", set()),
    (b"100000001", b"100000002.0", {"json"}),
    (b"3.0", b"3", {"float", "json"}),
    (b"1e3", b"1000.0", {"float", "json"}),
    (b"007", b"7", {"float"}),
    (b"5", b"5", {"exact", "lines", "tokens", "float", "unordered_lines", "unordered_tokens", "json"}),
    (b"nan", b"NaN", {"float"}),
    (b"Infinity", b"inf", {"float"}),
    (b"2 1", b"1 2", {"unordered_tokens"}),
    (b"b\na\n", b"a\nb\n", {"unordered_lines", "unordered_tokens"}),
    (b"a\na\nb", b"a\nb\nb", set()),
    (b'{"b": 1, "a": [1, 2]}', b'{"a":[1,2],"b":1}', {"json"}),
    (b"[1,2]", b"[1,2,3]", set()),
    (b"", b"", {"exact", "lines", "tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"", b"0", set()),
    (b"a\0b", b"ab", set()),
    (b"\xff\xfe", b"\xff\xfe", {"exact", "lines", "tokens", "float", "unordered_lines", "unordered_tokens"}),
    (b"\x1b[31m5\x1b[0m", b"5", set()),
    (b"5", b"5 5", set()),
]


@pytest.mark.parametrize(("actual", "expected", "accepting"), OUTPUTS)
def test_each_mode_accepts_what_it_says(actual: bytes, expected: bytes, accepting: set[str]) -> None:
    assert {mode.value for mode, rule in RULES.items() if outputs_match(actual, expected, rule)} == accepting


def test_a_million_lines_are_compared() -> None:
    many = b"\n".join(b"%d" % number for number in range(1_000_000))
    assert outputs_match(many + b"\n", many, RULES[Comparison.TOKENS])
    assert not outputs_match(many + b"\n1", many, RULES[Comparison.TOKENS])


@pytest.mark.parametrize("mode", list(Comparison))
def test_no_output_breaks_a_mode(mode: Comparison) -> None:
    for actual in (b"[" * 100_000, b"9" * 100_000, b"1e999999999", b"\x00" * 1000, b"-", b"1.", b"NaN", b"1_000", "٣".encode()):
        assert not outputs_match(actual, b"[1]", RULES[mode])


# actual, expected, accepted, accepted with strict types
VALUES: list[tuple[Any, Any, bool, bool]] = [
    (1, 1, True, True),
    (2, 1, False, False),
    (True, 1, True, False),
    (1.0, 1, True, False),
    (1.0000001, 1, False, False),
    (0.1 + 0.2, 0.3, True, True),
    (0.31, 0.3, False, False),
    (10**30, 10**30, True, True),
    (10**30 + 1, 10**30, False, False),
    ((1, 2), [1, 2], True, False),
    ([1, 2], [1, 2], True, True),
    ([1], [1, 2], False, False),
    (1, [1], False, False),
    ([[1], [2]], [[1], [2]], True, True),
    ("1", 1, False, False),
    (1, "1", False, False),
    (None, None, True, True),
    (None, 0, False, False),
    (False, None, False, False),
    ([], None, False, False),
    ({"a": 1}, {"a": 1}, True, True),
    ({1: "x"}, {"1": "x"}, True, True),
    ({1: "x", "1": "x"}, {"1": "x", "2": "x"}, False, False),
    ({(1,): 1}, {"(1,)": 1}, False, False),
    ({1, 2}, [1, 2], False, False),
    (math.nan, math.nan, True, True),
    (math.inf, math.inf, True, True),
    (-math.inf, math.inf, False, False),
    (1 + 0j, 1, False, False),
    (b"a", "a", False, False),
]


@pytest.mark.parametrize(("actual", "expected", "loosely", "strictly"), VALUES)
def test_results_are_compared_by_value_and_type(actual: Any, expected: Any, loosely: bool, strictly: bool) -> None:
    assert matches_plain(actual, expected, ValueRule()) is loosely
    assert matches_plain(actual, expected, ValueRule(strict_types=True)) is strictly


def test_a_subclass_is_compared_by_what_it_holds() -> None:
    class Equal(list[int]):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert not matches(encode([Equal([3])]), [4], ValueRule())
    assert matches(encode([Equal([4])]), [4], ValueRule())


@pytest.mark.parametrize(
    "table",
    [
        None,
        {},
        {"roots": [], "nodes": []},
        {"roots": [[0]], "nodes": []},
        {"roots": [[0]], "nodes": [["scalar", [0]]]},
        {"roots": [[0]], "nodes": [["list", [0]]]},
        {"roots": [["x"]], "nodes": [["list"]]},
        {"roots": [[0]], "nodes": [["int", "zz"]]},
        {"roots": [[0]], "nodes": [[]]},
        {"roots": [[0]], "nodes": [["record", 1]]},
        {"roots": [[-1]], "nodes": [{"a": 1}]},
        {"roots": [[0]], "nodes": [["handle", 1, "int"]]},
    ],
)
def test_a_forged_result_is_never_right(table: Any) -> None:
    assert not matches(table, [1], ValueRule())
    assert not matches(table, {"a": 1}, ValueRule())
    assert not matches(table, 1, ValueRule())


def test_a_result_that_contains_itself_ends_with_the_expected_value() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert not matches(encode([loop]), [[[[]]]], ValueRule())
