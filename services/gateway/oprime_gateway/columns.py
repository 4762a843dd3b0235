"""Numbers as JSON has them: float32 in their shortest decimals, or whole columns in base64. Pure."""

import base64
import math
from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

MOST_DIGITS = 9
"""That any float32 needs to be told from the others."""
FEWEST_DIGITS = 6
"""That any decimal has again after it was a float32: with so many, numbers that need fewer are in their shortest decimals, too."""
Number = TypeVar("Number", float, float | None)
POWERS_OF_TEN = 10.0 ** np.arange(23)
"""Those that are exact in float64."""


def short(value: float) -> float | None:
    """The shortest decimal that is this float32: 0.05, not 0.05000000074505806. None for what JSON has no number for."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if math.isfinite(narrow) else None


def sigmoid(value: float) -> float:
    """As a float32."""
    return float(str(np.float32(0.5 + 0.5 * math.tanh(value / 2))))


def floats(values: npt.ArrayLike) -> list[float]:
    """Finite float32 numbers, each in its shortest decimals: `float(str(value))` of each, for all of them together."""
    narrow = np.asarray(values, dtype=np.float32)
    wide = narrow.astype(np.float64)
    with np.errstate(divide="ignore"):
        first_digit = np.floor(np.log10(np.abs(wide)))
    decimals = (MOST_DIGITS - 1 - np.where(wide == 0, 0, first_digit)).astype(np.int64)
    exact = (decimals >= MOST_DIGITS) & (decimals < len(POWERS_OF_TEN))
    decimals = np.where(exact, decimals, MOST_DIGITS)
    found = _rounded(wide, decimals)
    for fewer in range(1, MOST_DIGITS - FEWEST_DIGITS + 1):
        shorter = _rounded(wide, decimals - fewer)
        found = np.where(shorter.astype(np.float32) == narrow, shorter, found)
    exact &= found.astype(np.float32) == narrow
    shown = cast("list[float]", found.tolist())
    for place in np.flatnonzero(~exact).tolist():
        shown[place] = float(str(narrow[place]))
    return shown


def _rounded(values: npt.NDArray[np.float64], decimals: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The nearest float64 to each value rounded to so many decimals: both terms of the quotient are exact."""
    scale = POWERS_OF_TEN[decimals]
    return np.rint(values * scale) / scale


def in_base64(values: npt.ArrayLike, kind: str) -> str:
    """`kind` is <f4 or <i4; None becomes NaN."""
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()


class Columns:
    """How an answer writes its columns."""

    def __init__(self, *, as_base64: bool) -> None:
        self._as_base64 = as_base64

    def floats(self, values: npt.ArrayLike) -> list[float] | str:
        """Of finite numbers."""
        return in_base64(values, "<f4") if self._as_base64 else floats(values)

    def some_floats(self, values: Sequence[Number]) -> list[Number] | str:
        """Of numbers that are in their shortest decimals already, or None."""
        return in_base64([math.nan if value is None else value for value in values], "<f4") if self._as_base64 else list(values)

    def ints(self, values: Sequence[int]) -> list[int] | str:
        return in_base64(values, "<i4") if self._as_base64 else list(values)
