"""The case files in `cases`: what is right, wrong or undecided, one row a line, in plain text.

A row is `verdict :: answer :: gold`. Verdicts are right, wrong, none (there is no answer) and unpaid (wrong or undecided).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.verifier import verify_math

FOLDER = Path(__file__).parent / "cases"
WANTED = {
    "right": {Verdict.CORRECT},
    "wrong": {Verdict.INCORRECT},
    "none": {Verdict.NO_ANSWER},
    "unpaid": {Verdict.INCORRECT, Verdict.UNDECIDED},
}


def rows(name: str) -> Iterator[tuple[str, str, str]]:
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            verdict, answer, gold = line.split(" :: ")
            yield verdict, answer, gold


def judged(response: str, gold: str, *, bare: bool) -> Verdict:
    return verify_math(VerificationRequest(kind="math", response=response, golds=(gold,), options={"bare": bare})).verdict


ANSWERS = [(path.name, *row) for path in sorted(FOLDER.glob("*.txt")) if path.name != "responses.txt" for row in rows(path.name)]


@pytest.mark.parametrize(("file", "verdict", "answer", "gold"), ANSWERS)
def test_an_answer_of_the_case_files(file: str, verdict: str, answer: str, gold: str) -> None:
    del file
    assert judged(answer, gold, bare=True) in WANTED[verdict]


@pytest.mark.parametrize(("verdict", "response", "gold"), list(rows("responses.txt")))
def test_a_response_of_the_case_files(verdict: str, response: str, gold: str) -> None:
    assert judged(response.replace("\\n", "\n"), gold, bare=False) in WANTED[verdict]
