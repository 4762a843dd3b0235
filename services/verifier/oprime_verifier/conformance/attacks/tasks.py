"""What a hostile submission is, and the tasks that it pretends to solve."""

import json
from dataclasses import dataclass, field
from typing import Any

from oprime.core.verification import Verdict, VerificationRequest

ECHO = {"inputs": ["alpha\n", "beta gamma\n"], "outputs": ["alpha\n", "beta gamma\n"]}
"""A program that prints its input."""
REVERSE = {"fn_name": "f", "inputs": ["[1, 2]", "[7, 8, 9]"], "outputs": ["[2, 1]", "[9, 8, 7]"]}
"""A function that reverses a list."""
REVERSE_ASSERTS = {"test_list": ["assert f([1, 2]) == [2, 1]", "assert f([7, 8, 9]) == [9, 8, 7]"]}
"""The same, by the task's own asserts."""
LIMITS = {"cpu_s": 1.0, "wall_s": 3.0, "memory_mib": 256, "output_mib": 1.0}

FAILED = frozenset({Verdict.INCORRECT, Verdict.RUNTIME, Verdict.VIOLATION})
"""By whatever: it did not get out, and was not paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A submission and the verdicts that are right for it. Any other is a hole, or an honest program that loses its reward."""

    name: str
    source: str
    verdicts: frozenset[Verdict]
    number: int | None = None
    """Row of the threat table; None for those beside it."""
    tests: Any = field(default_factory=lambda: ECHO)
    options: dict[str, Any] = field(default_factory=lambda: dict(LIMITS))
    fenced: bool = True
    """Whether the source is wrapped as a response has it; otherwise it is the response."""

    def request(self) -> VerificationRequest:
        tests = self.tests if isinstance(self.tests, str) else json.dumps(self.tests)
        response = f"```python\n{self.source}\n```" if self.fenced else self.source
        return VerificationRequest(kind="code", response=response, tests=tests, options=self.options, request_id=self.name)


def escape(name: str, attempt: str, number: int | None = None) -> Attack:
    """An attempt that raises where the sandbox holds; only a program that got out goes on and prints the right answer."""
    source = f"import os, sys, socket, ctypes\nline = input()\n{SYSCALL}{attempt}\nprint(line)"
    return Attack(name=name, number=number, source=source, verdicts=FAILED)


SYSCALL = """
def syscall(x86_64, aarch64, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(aarch64 if os.uname().machine == "aarch64" else x86_64, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def attempt_all(*attempts):
    for attempt in attempts:
        try:
            attempt()
            return
        except Exception as error:
            refused = error
    raise refused

def must(condition):
    if not condition:
        raise SystemExit(7)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def read(path):
    with open(path, "rb") as file:
        must(file.read(1))
"""
