"""Numbers as JSON has them: float32 in their shortest decimals, or whole columns in base64. Pure."""

import base64
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def short(value: float) -> float | None:
    """The shortest decimal that is this float32: 0.05, not 0.05000000074505806. None for what JSON has no number for."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if math.isfinite(narrow) else None


def sigmoid(value: float) -> float:
    """As a float32."""
    return float(str(np.float32(0.5 + 0.5 * math.tanh(value / 2))))


def floats(values: Sequence[float]) -> list[float]:
    """Finite float32 numbers, each in its shortest decimals."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


def in_base64(values: npt.ArrayLike, kind: str) -> str:
    """`kind` is <f4 or <i4; None becomes NaN."""
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()


class Columns:
    """How an answer writes its columns."""

    def __init__(self, *, as_base64: bool) -> None:
        self._as_base64 = as_base64

    def floats(self, values: Sequence[float]) -> list[float] | str:
        return in_base64(values, "<f4") if self._as_base64 else floats(values)

    def some_floats(self, values: Sequence[float | None]) -> list[float | None] | str:
        return in_base64([math.nan if value is None else value for value in values], "<f4") if self._as_base64 else list(values)

    def ints(self, values: Sequence[int]) -> list[int] | str:
        return in_base64(values, "<i4") if self._as_base64 else list(values)
