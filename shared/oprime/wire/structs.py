"""JSON objects, such as the options of a verifier, as google.protobuf.Struct and back.

A Struct has one kind of number, the double. So a whole number arrives as int, whether it was sent as 3 or as 3.0; true and false
stay bool, 3.5 stays float; and a whole number that a double may not hold is refused where it is sent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

MAX_WHOLE = 2**53 - 1
"""Largest whole number that every JSON reader keeps."""

MAX_DEPTH = 30
"""Objects and lists within each other: protobuf reads 100 messages deep, and each of these is three."""


def struct_of(values: Mapping[str, Any]) -> Struct:
    """Any JSON object. Raises ValueError, naming the place, for what would arrive changed or not at all."""
    try:
        return json_format.ParseDict(_plain(values, "", MAX_DEPTH), Struct())
    except json_format.ParseError as error:
        raise ValueError(f"it cannot be sent: {error}") from error


def values_of(struct: Struct) -> dict[str, Any]:
    """The object in a Struct. Raises ValueError for a number that JSON does not have."""
    return {name: _value_of(value, name) for name, value in struct.fields.items()}


def _plain(value: Any, place: str, depth: int) -> Any:
    """`value` in dicts and lists, if it arrives as it is; at most `depth` of them within each other."""
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        raise ValueError(f"{place[:60]}... is nested too deeply: at most {MAX_DEPTH} objects and lists lie within each other")
    if isinstance(value, Mapping):
        named = cast(Mapping[object, object], value)
        return {_name(name, place): _plain(part, f"{place}.{name}" if place else str(name), depth - 1) for name, part in named.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{place}[{index}]", depth - 1) for index, part in enumerate(cast(Sequence[object], value))]
    if isinstance(value, float):
        _check_finite(value, place)
    elif isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ValueError(
            f"{place} is {_short(value)}: whole numbers above 2^53 - 1 in size would be rounded on their way; send it as a text"
        )
    elif not (value is None or isinstance(value, str | int)):
        raise ValueError(f"{place} is a {type(value).__name__}, which JSON does not have: send it as a text or a number")
    return value


def _name(name: object, place: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{place or 'the object'} has the name {name!r}, a {type(name).__name__}: names are texts; put it in quotes")  # noqa: TRY004 - one kind of error for the caller
    return name


def _check_finite(value: float, place: str) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which is no number in JSON: leave it out or send it as a text")


def _short(value: int) -> str:
    # Python refuses to write out numbers of thousands of digits.
    return str(value) if value.bit_length() < 128 else f"a whole number of {value.bit_length()} bits"


def _value_of(value: Value, place: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return _number_of(value.number_value, place)
    if kind == "struct_value":
        return {name: _value_of(part, f"{place}.{name}") for name, part in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_value_of(part, f"{place}[{index}]") for index, part in enumerate(value.list_value.values)]
    return {"string_value": value.string_value, "bool_value": value.bool_value}.get(kind or "")


def _number_of(number: float, place: str) -> int | float:
    _check_finite(number, place)
    return int(number) if number.is_integer() and abs(number) <= MAX_WHOLE else number
