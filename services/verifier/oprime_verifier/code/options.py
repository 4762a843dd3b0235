"""Options of the code verifier, by name in a request."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from oprime.runtime.settings import Section


class Comparison(StrEnum):
    """How the output of a program is compared with the expected one."""

    EXACT = "exact"
    """Byte for byte."""
    LINES = "lines"
    """Line by line; spaces at the end of a line and empty lines at the end do not count."""
    TOKENS = "tokens"
    """Word by word; the amount of white space does not count, case and digits do."""
    FLOAT = "float"
    """Word by word; numbers with a fraction within the tolerances, whole numbers exactly."""
    UNORDERED_LINES = "unordered_lines"
    """As `lines`, in any order; empty lines do not count."""
    UNORDERED_TOKENS = "unordered_tokens"
    """As `tokens`, in any order."""
    JSON = "json"
    """As JSON values, by the rules of function results."""


class Scoring(StrEnum):
    """What a part of the tests is worth."""

    ALL = "all"
    """1 when every test passes, else 0."""
    SHARE = "share"
    """Passed tests by all tests."""
    WEIGHTED = "weighted"
    """Groups of tests; a group pays its weight when all of its tests pass."""
    FIRST_K = "first_k"
    """1 when the first `first_k` tests of the task pass, else 0; the rest is not run."""


class CodeOptions(Section):
    language: Literal["python", "cpp", "javascript"] = "python"
    """Language of the response."""
    bare: bool = False
    """The response is code, without a fence and without reasoning."""
    entry_point: str = ""
    """Function under test, `f` or `Solution().f`, where the tests do not name it."""
    usual_imports: bool = True
    """Functions under test find what LeetCode imports (typing, collections, math, ...) without importing it. Programs never do."""
    comparison: Comparison | None = None
    """Comparison of program outputs; unset, the task's checker, else `tokens`."""
    abs_tolerance: float = Field(default=1e-6, ge=0)
    """Largest difference of two numbers with a fraction, for `float`, `json` and function results."""
    rel_tolerance: float = Field(default=1e-6, ge=0)
    """Likewise, as a part of the expected number."""
    strict_types: bool = False
    """Function results must have the expected type: no tuple for a list, no True or 1.0 for 1."""
    checker: str = ""
    """Source of a judge of outputs, run as `checker.py input.txt expected.txt output.txt`; wins over the task's own."""
    checker_language: Literal["python"] = "python"
    """Language of `checker`."""
    scoring: Scoring | None = None
    """What a part of the tests is worth; unset, `share` with `partial`, else `all`."""
    first_k: int = Field(default=1, ge=1)
    """Tests that count with scoring `first_k`."""
    partial: bool = False
    """Run every test although one failed, report all, and pay for a part; implied by the scorings `share` and `weighted`."""
    cpu_s: float | None = Field(default=None, gt=0)
    """CPU time of one test in seconds; unset, the task's time limit times `cpu_factor`, else 4."""
    cpu_factor: float = Field(default=1.0, gt=0)
    """What the task's own time limit is multiplied by, for a language slower than the one it was set for."""
    wall_s: float | None = Field(default=None, gt=0)
    """Wall time of one test in seconds; unset, three times the CPU time and one second."""
    memory_mib: int | None = Field(default=None, ge=16)
    """Memory of one process in MiB; unset, the task's own limit, else 512."""
    output_mib: float = Field(default=8.0, gt=0)
    """Most output of one test in MiB."""
    allow_nonzero_exit: bool = False
    """A program that ends with another exit code than 0 may still pass."""
    profile: Literal["bare", "numpy"] = "bare"
    """Packages that the program may import: none, or numpy."""
    reruns: int = Field(default=0, ge=0, le=10)
    """Runs after a first success, each with another seed; one that fails decides, and the outcome is flagged `flaky`."""

    @property
    def pays(self) -> Scoring:
        return self.scoring or (Scoring.SHARE if self.partial else Scoring.ALL)

    @property
    def runs_all(self) -> bool:
        return self.partial or self.pays in (Scoring.SHARE, Scoring.WEIGHTED)
