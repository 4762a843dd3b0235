"""Tests of a code task in one shape, whatever encoding they came in."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oprime.runtime.errors import OprimeError


class BadTaskError(OprimeError):
    """The tests cannot be used: no fault of the response."""


class Kind(StrEnum):
    PROGRAM = "program"
    """A program that reads stdin and writes stdout."""
    CALL = "call"
    """A function, whose results are compared with values."""
    ASSERTS = "asserts"
    """A function, which the task's own test source calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCase:
    stdin: bytes
    expected: bytes
    weight: float = 1.0
    group: str = ""
    """Cases of one group are paid together with the scoring `weighted`; by itself, a case is its own group."""

    @property
    def size(self) -> int:
        return len(self.stdin) + len(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCase:
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    expected: Any
    size: int = 0
    """Characters of its encoding."""
    weight: float = 1.0
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertSource:
    source: str
    """Trusted Python: asserts, `check(candidate)`, test functions or test classes."""
    names: tuple[str, ...]
    """What the solution has to define."""
    calls_candidate: bool
    """Whether the tests call the function under test `candidate`."""
    tests: int
    """Asserts and test functions at the top; at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSuite:
    __test__ = False

    kind: Kind
    programs: tuple[ProgramCase, ...] = ()
    calls: tuple[CallCase, ...] = ()
    asserts: AssertSource | None = None
    entry_point: str = ""
    """`f`, or `Solution().f`; empty where the tests name what they call."""
    prompt: str = ""
    """Trusted source that the response may complete: imports, helpers, the signature."""
    preamble: str = ""
    """The same, with a body for the signature: what runs before the response, so that it may rely on imports and helpers."""
    may_be_wrapped: bool = False
    """Every expected value is a list of one element that may stand for the element (APPS and its heirs)."""
    reference: str = ""
    """Trusted solution that gives the expected values, where the task has none (EvalPlus)."""
    checker: str = ""
    """Source of the task's own judge of outputs."""
    cpu_s: float | None = None
    memory_bytes: int | None = None
    abs_tolerance: float | None = None

    @property
    def count(self) -> int:
        return self.asserts.tests if self.asserts else len(self.programs) + len(self.calls)
