"""The suite's own cases, from the JSON Lines files beside this module."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from oprime.core.verification import VerificationRequest

POLICY = "policy:"
"""Begins the note of a case on which verifiers may differ; it is told, and fails nothing."""
NOT_CORRECT = "not CORRECT"
"""Expected of a case that only must not be paid in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MathCase:
    """A response and whether it is right."""

    id: str
    category: str
    response: str
    gold: str
    expected: bool
    note: str = ""

    @property
    def is_policy(self) -> bool:
        return self.note.startswith(POLICY)

    def request(self, kind: str) -> VerificationRequest:
        return VerificationRequest(kind=kind, response=self.response, golds=(self.gold,), request_id=f"case:{self.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeCase:
    """A response with tests and the verdict it must get."""

    id: str
    response: str
    tests: str
    verdict: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""

    def request(self, kind: str) -> VerificationRequest:
        return VerificationRequest(kind=kind, response=self.response, tests=self.tests, options=self.options, request_id=f"case:{self.id}")


def math_cases() -> list[MathCase]:
    """A row has the content of a box (`answer`) or a whole `response`."""
    return [
        MathCase(
            id=row["id"],
            category=row["category"],
            response=row["response"] if "response" in row else f"The final answer is \\boxed{{{row['answer']}}}.",
            gold=row["gold"],
            expected=row["expected"],
            note=row.get("note", ""),
        )
        for row in _rows("math.jsonl")
    ]


def code_cases() -> list[CodeCase]:
    return [
        CodeCase(**{**row, "tests": row["tests"] if isinstance(row["tests"], str) else json.dumps(row["tests"])})
        for row in _rows("code.jsonl")
    ]


def _rows(name: str) -> list[dict[str, Any]]:
    text = files("oprime_verifier.conformance").joinpath("cases", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
