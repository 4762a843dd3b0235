"""Float32 columns are printed in the decimals that numpy prints, whatever they hold."""

import math
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from oprime_gateway.columns import floats


def float32_of_bits(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


ANY_FLOAT32 = st.integers(0, 2**32 - 1).map(float32_of_bits).filter(math.isfinite)
REWARDS = st.integers(-(2**27), 2**27).map(lambda multiple: multiple * 2.0**-30)


def one_by_one(values: list[float]) -> list[str]:
    return [repr(float(str(value))) for value in np.asarray(values, dtype=np.float32)]


@given(st.lists(st.one_of(ANY_FLOAT32, REWARDS), max_size=20))
def test_a_column_has_the_shortest_decimals_of_each_number(values: list[float]) -> None:
    assert list(map(repr, floats(values))) == one_by_one(values)


def test_powers_and_their_neighbours_have_their_shortest_decimals() -> None:
    powers = np.array([*(2.0**k for k in range(-149, 128)), *(10.0**k for k in range(-44, 39)), 0.0], dtype=np.float32)
    below, above = (np.nextafter(powers, np.float32(end)) for end in (-1e38, 1e38))
    values = np.concatenate([powers, -powers, below, above]).tolist()
    assert list(map(repr, floats(values))) == one_by_one(values)


def test_a_tenth_is_a_tenth() -> None:
    assert floats(np.array([0.1, 0.05, 1e-8, 123456.7, -3.0], dtype=np.float32)) == [0.1, 0.05, 1e-8, 123456.7, -3.0]
