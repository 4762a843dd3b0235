"""Limits as data sets write them."""

import re
from collections.abc import Mapping
from typing import Any

from oprime_verifier.code.suite import BadTaskError

MIB = 1024 * 1024
_UNITS = {"": MIB, "b": 1, "bytes": 1, "kb": 1024, "kib": 1024, "kilobytes": 1024, "mb": MIB, "mib": MIB, "megabytes": MIB,
          "gb": 1024 * MIB, "gib": 1024 * MIB, "gigabytes": 1024 * MIB}  # fmt: skip
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def seconds_of(value: Any, field: str = "tests.time_limit") -> float | None:
    """`2`, `"2.0 seconds"`, `{"seconds": 2, "nanos": 500000000}`."""
    if value in (None, "", {}):
        return None
    if isinstance(value, Mapping):
        seconds = float(value.get("seconds") or 0) + float(value.get("nanos") or 0) * 1e-9
        return seconds or None
    amount, unit = _amount(value, field)
    return amount / 1000.0 if unit.startswith(("ms", "milli")) else amount


def bytes_of(row: Mapping[str, Any]) -> int | None:
    """`memory_limit_bytes`, or `memory_limit` in MB, or with its unit: `"256 megabytes"`."""
    if row.get("memory_limit_bytes"):
        return int(_amount(row["memory_limit_bytes"], "tests.memory_limit_bytes")[0])
    value = row.get("memory_limit")
    if value in (None, ""):
        return None
    amount, unit = _amount(value, "tests.memory_limit")
    if unit not in _UNITS:
        raise BadTaskError(f"tests.memory_limit is {value!r}; its unit must be bytes, kilobytes, megabytes or gigabytes")
    return int(amount * _UNITS[unit])


def _amount(value: Any, field: str) -> tuple[float, str]:
    found = _AMOUNT.match(str(value))
    if isinstance(value, bool) or found is None or float(found[1]) <= 0:
        raise BadTaskError(f"{field} is {value!r}; it must be a number above 0, perhaps with a unit")
    return float(found[1]), found[2].lower()
