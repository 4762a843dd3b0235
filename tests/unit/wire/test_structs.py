"""JSON objects on the wire: what was a whole number arrives as one."""

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from oprime.core.verification import VerificationRequest
from oprime.wire.structs import MAX_DEPTH, MAX_WHOLE, struct_of, values_of
from oprime.wire.verification import request_from_proto, request_to_proto
from oprime_proto.v1 import verifier_pb2

WHOLE = st.integers(-MAX_WHOLE, MAX_WHOLE)
SCALARS = st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8
)


def typed(value: Any) -> Any:
    """`value` with the type of each scalar beside it; a whole float counts as int, which is what a double can tell."""
    if isinstance(value, dict):
        return {name: typed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_WHOLE
    return int if whole else type(value), value


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_every_value_arrives_as_it_was_sent(values: dict[str, Any]) -> None:
    again = values_of(Struct.FromString(struct_of(values).SerializeToString()))
    assert typed(again) == typed(values)


def test_whole_numbers_are_int_and_everything_else_keeps_its_type() -> None:
    sent = {"n": 3, "share": 3.5, "strict": True, "name": "3", "none": None, "deep": {"list": [1, 2.5, False, {"n": -4}]}}
    arrived = values_of(struct_of(sent))
    assert arrived == sent
    assert (type(arrived["n"]), type(arrived["strict"]), type(arrived["deep"]["list"][3]["n"])) == (int, bool, int)


def test_a_large_float_stays_a_float() -> None:
    arrived = values_of(struct_of({"most": 1e300, "edge": MAX_WHOLE}))
    assert (type(arrived["most"]), type(arrived["edge"]), arrived["edge"]) == (float, int, MAX_WHOLE)


@pytest.mark.parametrize(
    ("value", "place", "told"),
    [
        (2**53, "n", "n is 9007199254740992: whole numbers above 2\\^53 - 1"),
        (-(2**53) - 1, "n", "send it as a text"),
        pytest.param(10**5000, "n", "a whole number of 16610 bits", id="huge"),
        ([0, {"m": 2**60}], "n", r"n\[1\].m is"),
        (math.nan, "n", "nan"),
        (math.inf, "n", "inf"),
        (b"x", "n", "n is a bytes"),
        ({3: "x"}, "n", "n has the name 3, a int"),
    ],
)
def test_what_would_arrive_changed_is_refused_where_it_is_sent(value: Any, place: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        struct_of({place: value})


def test_a_number_that_json_does_not_have_is_refused_on_arrival() -> None:
    foreign = Struct()
    foreign.fields["a"].struct_value.fields["b"].number_value = math.nan
    with pytest.raises(ValueError, match=r"a\.b is nan"):
        values_of(foreign)


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(depth - 1):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


def test_what_is_nested_as_deep_as_allowed_arrives_within_a_batch_of_requests() -> None:
    request = VerificationRequest(kind="my-plugin", response="", options=nested(MAX_DEPTH))
    message = verifier_pb2.VerifyBatchRequest(requests=[request_to_proto(request)])
    read = verifier_pb2.VerifyBatchRequest.FromString(message.SerializeToString())
    assert request_from_proto(read.requests[0]).options == nested(MAX_DEPTH)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 50, 90, 5000])
def test_what_is_nested_deeper_is_refused_with_the_rule(depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deeply: at most 30 objects and lists"):
        struct_of(nested(depth))
