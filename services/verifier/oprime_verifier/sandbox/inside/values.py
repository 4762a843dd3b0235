"""Python values as JSON, by an exact walk over their types, so that no object of model code is trusted, pickled or compared.

A value is `{"roots": [item...], "nodes": [node...]}`. An item is null, a boolean, a small integer, a finite number, a string, or `[i]`:
the node i. A node is `[kind, ...]`. The table is flat, so that depth, cycles and shared parts cost nothing.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import math
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

MAX_ITEMS = 2_000_000
"""Most parts of one value, and most items taken from an iterator."""
_SMALL = 1 << 63
Keep = Callable[[Any], list[Any]]
"""Makes the node of an object that is no data, for example `["handle", number, class name]`."""
Item = Callable[[Any], Any]


class UnencodableError(Exception):
    """A value that is no data: an object of a class that only model code knows, for example."""


class UndecodableError(Exception):
    """A table that `encode` did not write."""


def encode(
    values: Sequence[Any], classes: frozenset[str] = frozenset(), keep: Keep | None = None, *, exact: bool = False
) -> dict[str, Any]:
    """`classes` names the classes that are copied by their attributes; `keep` makes the node of any other object.

    `exact`: what would behave otherwise once it is copied is no data either: iterators, arrays and their numbers, and objects whose class
    compares or counts by rules of its own.
    """
    return _Encoder(classes, keep, exact).encode(values)


class _Encoder:
    def __init__(self, classes: frozenset[str], keep: Keep | None, exact: bool) -> None:
        self._classes = classes
        self._keep = keep
        self._writers = _EXACT_WRITERS if exact else _WRITERS
        self._rules = (self._object_node, *(_EXACT_RULES if exact else _RULES))
        self._nodes: list[Any] = []
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._pending: collections.deque[tuple[int, Any]] = collections.deque()
        self._items = 0

    def encode(self, values: Sequence[Any]) -> dict[str, Any]:
        roots = [self.item(value) for value in values]
        while self._pending:
            index, value = self._pending.popleft()
            self._nodes[index] = self._node(value)
        return {"roots": roots, "nodes": self._nodes}

    def item(self, value: Any) -> Any:
        kind = type(value)
        self._items += 1
        if self._items > MAX_ITEMS:
            raise UnencodableError(f"a value of more than {MAX_ITEMS} parts")
        if value is None or kind is bool or kind is str or (kind is int and -_SMALL <= value < _SMALL):
            return value
        if kind is float and math.isfinite(value):
            return value
        known = self._seen.get(id(value))
        if known is not None:
            return [known]
        index = len(self._nodes)
        self._seen[id(value)] = index
        self._alive.append(value)  # an id is only good as long as its object lives
        self._nodes.append(None)
        self._pending.append((index, value))
        return [index]

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        writer = self._writers.get(kind)
        if writer is not None:
            return writer(value, self.item)
        for rule in self._rules:
            node = rule(value, self.item)
            if node is not None:
                return node
        if self._keep is None:
            raise UnencodableError(f"an object of the class {_name(kind)}")
        return self._keep(value)

    def _object_node(self, value: Any, item: Item) -> list[Any] | None:
        kind = type(value)
        if _name(kind) not in self._classes:
            return None
        parts: list[Any] = ["object", _name(kind)]
        for name, attribute in _attributes(value):
            parts += [name, item(attribute)]
        return parts


def _name(kind: type) -> str:
    return str(type.__dict__["__name__"].__get__(kind))


def _attributes(value: Any) -> Iterable[tuple[str, Any]]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    yield from ((str(name), attribute) for name, attribute in own.items())
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, object.__getattribute__(value, name)


def _sequence(kind: str) -> Callable[[Any, Item], list[Any]]:
    return lambda value, item: [kind, *[item(part) for part in value]]


def _pairs(kind: str, value: Any, item: Item) -> list[Any]:
    return [kind, *[item(part) for pair in dict.items(value) for part in pair]]


def _iterator(value: Any, item: Item) -> list[Any]:
    taken = list(islice(value, MAX_ITEMS + 1))
    return ["iterator", *[item(part) for part in taken]]


_WRITERS: dict[type, Callable[[Any, Item], list[Any]]] = {
    int: lambda value, _: ["int", hex(value)],
    float: lambda value, _: ["float", repr(value)],
    complex: lambda value, item: ["complex", item(value.real), item(value.imag)],
    bytes: lambda value, _: ["bytes", value.hex()],
    bytearray: lambda value, _: ["bytearray", value.hex()],
    list: _sequence("list"),
    tuple: _sequence("tuple"),
    set: _sequence("set"),
    frozenset: _sequence("frozenset"),
    dict: lambda value, item: _pairs("dict", value, item),
    collections.OrderedDict: lambda value, item: _pairs("ordered", value, item),
    collections.Counter: lambda value, item: _pairs("counter", value, item),
    collections.defaultdict: lambda value, item: _pairs("dict", value, item),
    collections.deque: _sequence("deque"),
    range: lambda value, item: ["range", item(value.start), item(value.stop), item(value.step)],
    slice: lambda value, item: ["slice", item(value.start), item(value.stop), item(value.step)],
    decimal.Decimal: lambda value, _: ["decimal", str(value)],
    fractions.Fraction: lambda value, item: ["fraction", item(value.numerator), item(value.denominator)],
    datetime.date: lambda value, _: ["date", value.isoformat()],
    datetime.time: lambda value, _: ["time", value.isoformat()],
    datetime.datetime: lambda value, _: ["datetime", value.isoformat()],
    datetime.timedelta: lambda value, _: ["timedelta", value.days, value.seconds, value.microseconds],
    type(...): lambda _value, _item: ["ellipsis"],
    type({}.keys()): _sequence("keys"),
    type({}.values()): _sequence("iterator"),
    type({}.items()): _sequence("items"),
    **dict.fromkeys(
        (map, filter, zip, enumerate, reversed, type(iter([])), type(iter(())), type(iter("")), type(iter(set())), type(iter({})),
         type(iter(range(0))), type(reversed([]))),
        _iterator,
    ),
}  # fmt: skip

_BUILTIN_NAMES = {id(value): name for name, value in vars(builtins).items() if callable(value)}


def _builtin_node(value: Any, _item: Item) -> list[Any] | None:
    name = _BUILTIN_NAMES.get(id(value))
    return None if name is None else ["builtin", name]


def _numpy_node(value: Any, item: Item) -> list[Any] | None:
    numpy = sys.modules.get("numpy")
    if type(numpy) is not types.ModuleType:
        return None
    if type(value) is numpy.ndarray:
        return ["array", item(value.tolist())]
    if isinstance(value, numpy.generic) and type(value).__module__ == "numpy":
        return ["scalar", item(value.item())]
    return None


def _base_node(value: Any, item: Item) -> list[Any] | None:
    """The plain value inside an object whose class derives from a built-in type: what it is, not what its methods say."""
    kind = type(value)
    if isinstance(value, tuple) and type(fields := getattr(kind, "_fields", None)) is tuple:
        return ["record", _name(kind), [str(field) for field in fields], *[item(part) for part in tuple.__iter__(value)]]
    for base, extract in _BASES:
        if issubclass(kind, base):
            return ["scalar", item(extract(value))]
    return None


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda value: int.__add__(value, 0)),
    (float, lambda value: float.__add__(value, 0.0)),
    (str, lambda value: str.__add__("", value)),
    (list, lambda value: list.__getitem__(value, slice(None))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (collections.deque, lambda value: collections.deque(collections.deque.__iter__(value))),
    (bytes, lambda value: bytes.__add__(b"", value)),
)  # fmt: skip
_OWN_WAYS = (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__", "__len__", "__iter__", "__contains__",
    "__getitem__", "__class__", "__getattribute__",
)  # fmt: skip
"""What a class may define that makes its objects something else than the plain values inside them."""
_PLAIN_KINDS = frozenset(id(kind) for kind, _ in _BASES)
_MRO = type.__dict__["__mro__"].__get__
_NAMES = type.__dict__["__dict__"].__get__


def _plain_base_node(value: Any, item: Item) -> list[Any] | None:
    """As `_base_node`, for a class that leaves the ways of its built-in base as they are."""
    for kind in _MRO(type(value)):
        if id(kind) in _PLAIN_KINDS:
            return _base_node(value, item)
        if any(way in _NAMES(kind) for way in _OWN_WAYS):
            return None
    return None


_RULES = (_numpy_node, _builtin_node, _base_node)
_EXACT_RULES = (_builtin_node, _plain_base_node)
_EXACT_WRITERS = {
    kind: writer
    for kind, writer in _WRITERS.items()
    if writer is not _iterator and kind not in (type({}.values()), collections.defaultdict)
}


class Decoder:
    """Reads a table; `classes` are the classes that objects are made of, `foreign` reads the nodes that `Keep` made."""

    def __init__(self, table: Any, classes: dict[str, type] | None = None, foreign: Callable[[list[Any]], Any] | None = None) -> None:
        self._nodes: list[Any] = table["nodes"]
        self._roots: list[Any] = table["roots"]
        self._classes = classes or {}
        self._foreign = foreign
        self._made: dict[int, Any] = {}
        self._unfilled: list[int] = []

    def roots(self) -> list[Any]:
        """Raises UndecodableError."""
        try:
            values = [self._item(root) for root in self._roots]
            while self._unfilled:
                index = self._unfilled.pop()
                self._fill(self._made[index], self._nodes[index])
        except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError, AttributeError) as error:
            raise UndecodableError(f"{type(error).__name__}: {error}") from error
        return values

    def _item(self, item: Any) -> Any:
        if type(item) is not list:
            return item
        (index,) = item
        if index not in self._made:
            self._made[index] = self._make(index, self._nodes[index])
        return self._made[index]

    def _make(self, index: int, node: list[Any]) -> Any:
        kind = node[0]
        shell = _SHELLS.get(kind)
        if shell is not None:
            self._unfilled.append(index)
            return shell()
        if kind == "object":
            self._unfilled.append(index)
            return object.__new__(self._classes[node[1]])
        if kind not in _READERS and self._foreign is not None:
            return self._foreign(node)
        return _READERS[kind](node, self._item)

    def _fill(self, made: Any, node: list[Any]) -> None:
        kind = node[0]
        if kind in ("list", "deque"):
            made.extend(self._item(part) for part in node[1:])
        elif kind == "set":
            made.update(self._item(part) for part in node[1:])
        elif kind == "object":
            for name, part in zip(node[2::2], node[3::2], strict=True):
                object.__setattr__(made, name, self._item(part))
        else:
            for key, part in zip(node[1::2], node[2::2], strict=True):
                made[self._item(key)] = self._item(part)


_SHELLS: dict[str, Callable[[], Any]] = {
    "list": list,
    "deque": collections.deque,
    "set": set,
    "dict": dict,
    "ordered": collections.OrderedDict,
    "counter": collections.Counter,
}


def _record(node: list[Any], item: Item) -> Any:
    try:
        kind = collections.namedtuple(node[1], node[2])  # type: ignore[misc]
    except ValueError:
        return tuple(item(part) for part in node[3:])
    return kind(*(item(part) for part in node[3:]))


_READERS: dict[str, Callable[[list[Any], Item], Any]] = {
    "int": lambda node, _: int(node[1], 16),
    "float": lambda node, _: float(node[1]),
    "complex": lambda node, item: complex(item(node[1]), item(node[2])),
    "bytes": lambda node, _: bytes.fromhex(node[1]),
    "bytearray": lambda node, _: bytearray.fromhex(node[1]),
    "tuple": lambda node, item: tuple([item(part) for part in node[1:]]),
    "frozenset": lambda node, item: frozenset([item(part) for part in node[1:]]),
    "range": lambda node, item: range(*(item(part) for part in node[1:])),
    "slice": lambda node, item: slice(*(item(part) for part in node[1:])),
    "decimal": lambda node, _: decimal.Decimal(node[1]),
    "fraction": lambda node, item: fractions.Fraction(item(node[1]), item(node[2])),
    "date": lambda node, _: datetime.date.fromisoformat(node[1]),
    "time": lambda node, _: datetime.time.fromisoformat(node[1]),
    "datetime": lambda node, _: datetime.datetime.fromisoformat(node[1]),
    "timedelta": lambda node, _: datetime.timedelta(*node[1:]),
    "ellipsis": lambda _node, _item: ...,
    "keys": lambda node, item: dict.fromkeys(item(part) for part in node[1:]).keys(),
    "items": lambda node, item: dict(item(part) for part in node[1:]).items(),
    "iterator": lambda node, item: iter([item(part) for part in node[1:]]),
    "builtin": lambda node, _: getattr(builtins, node[1]),
    "scalar": lambda node, item: item(node[1]),
    "array": lambda node, item: item(node[1]),
    "record": _record,
}
