"""What crosses the sandbox's wall comes back equal, and of the same type."""

import collections
import datetime
import decimal
import enum
import fractions
import json
import math
from typing import Any

import pytest

from oprime_verifier.sandbox.inside.values import Decoder, UndecodableError, UnencodableError, encode


def there_and_back(value: Any, classes: dict[str, type] | None = None) -> Any:
    table = json.loads(json.dumps(encode([value], frozenset(classes or ()))))
    return Decoder(table, classes).roots()[0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**63,
        -(2**64),
        10**5000,
        1.5,
        -0.0,
        math.inf,
        1 + 2j,
        "",
        "a\0b\ud800",
        b"\xff",
        bytearray(b"a"),
        [],
        [[1], [2.0, "x"]],
        (1, (2, [3])),
        {1, 2},
        frozenset({(1, 2)}),
        {"a": [1], 2: None, (1, 2): {}},
        range(2, 9, 3),
        slice(1, None, 2),
        collections.deque([1, 2]),
        collections.Counter("aab"),
        collections.OrderedDict(a=1),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        datetime.date(2024, 2, 29),
        datetime.datetime.fromisoformat("2024-02-29T12:30"),
        datetime.timedelta(days=-1, seconds=5),
        ...,
        int,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_cross(value: Any) -> None:
    back = there_and_back(value)
    assert type(back) is type(value)
    assert back == value


def test_iterators_and_views_cross_as_what_they_are() -> None:
    assert list(there_and_back(map(str, [1, 2]))) == ["1", "2"]
    assert there_and_back({"a": 1}.keys()) == {"a"}
    assert list(there_and_back({"a": [1]}.items())) == [("a", [1])]
    assert there_and_back(collections.namedtuple("P", "x y")(1, 2)).y == 2


def test_shared_and_circular_parts_stay_so() -> None:
    part: list[Any] = [1]
    loop: list[Any] = [part, part]
    loop.append(loop)
    back = there_and_back(loop)
    assert back[0] is back[1]
    assert back[2] is back


def test_depth_costs_nothing() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    back, depth = there_and_back(deep), 0
    while back:
        back, depth = back[0], depth + 1
    assert depth == 100_000


class Node:
    def __init__(self, value: int, after: "Node | None" = None) -> None:
        self.value, self.after = value, after


def test_objects_of_known_classes_cross_by_attributes() -> None:
    ring = Node(1, Node(2))
    assert ring.after is not None
    ring.after.after = ring
    back: Any = there_and_back(ring, {"Node": Node})
    assert type(back) is Node
    assert back.after is not None
    assert (back.value, back.after.value) == (1, 2)
    assert back.after.after is back


def test_objects_of_unknown_classes_do_not_cross() -> None:
    with pytest.raises(UnencodableError, match="Node"):
        encode([[Node(1)]])


def test_an_object_that_lies_about_itself_crosses_as_what_it_is() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

        def __index__(self) -> int:
            return 99

        def __add__(self, other: int) -> int:
            return 99

        def __reduce__(self) -> Any:
            return (eval, ("1/0",))

    class Words(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "expected"

    assert there_and_back([Liar(3), Words("mine")]) == [3, "mine"]


@pytest.mark.parametrize(
    "nodes", [[["tuple", [0]]], [["scalar", [0]]], [["unknown"]], [["set", [0]]], [["dict", 1]], [["object", "Node"]], [[]], ["x"]]
)
def test_a_forged_table_is_refused(nodes: list[Any]) -> None:
    with pytest.raises(UndecodableError):
        Decoder({"roots": [[0]], "nodes": nodes}).roots()


class Plain(list[int]):
    """A list by another name."""


class Agreeing(list[int]):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "is_data"),
    [
        (Plain([1]), True),
        (Colour.RED, True),
        (Point(1, 2), True),
        ([Plain([1])], True),
        (Agreeing([1]), False),
        ([Agreeing([1])], False),
        (iter([1]), False),
        (map(str, [1]), False),
        ({1: 2}.values(), False),
        (collections.defaultdict(int), False),
        (Plain, False),
        (object(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exactly_encoded_is_only_what_behaves_alike_as_a_copy(value: object, is_data: bool) -> None:
    kept: list[object] = []
    encode([value], keep=lambda one: kept.append(one) or ["kept"], exact=True)
    assert (not kept) == is_data


def test_an_exact_encoding_uses_up_no_iterator() -> None:
    numbers = iter([1, 2])
    encode([numbers], keep=lambda _: ["kept"], exact=True)
    assert list(numbers) == [1, 2]
