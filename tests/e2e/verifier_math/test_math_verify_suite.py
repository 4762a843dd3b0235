"""The plain answer cases of Math-Verify's own test-suite, against this verifier.

The suite comes with the source archive of `math-verify`. Unpack it (`pip download --no-deps --no-binary :all: math-verify`)
and name its `tests` folder in MATH_VERIFY_TESTS.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.math.verifier import verify_math

FOLDER = os.environ.get("MATH_VERIFY_TESTS", "")
pytestmark = pytest.mark.skipif(
    not Path(FOLDER).is_dir() or not FOLDER, reason="MATH_VERIFY_TESTS names no folder with Math-Verify's tests"
)

LEAST_AGREEMENT = 0.85
"""Of the plain cases. The rest differ on purpose:

- a decimal comma in a gold, as 1,22, is a list here (in an answer it is read where the gold is a decimal);
- decimals of four digits are not 8/3 here, and 0.33 is not 1/3;
- a chain of equations must hold: x = 5+5+1 = 7 = 11 claims nothing;
- an inequality for an interval is accepted here by default (`inequality_for_interval`);
- points grouped by semicolons, p=5,q=2;p=7,q=2, are not read;
- the same point twice in a list is two items here;
- an upright e is a letter here, and f(x) is not f(y).
"""


def cases(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(gold, answer, expected) of every parametrised test that has literal ones and says what is expected."""
    for file in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "parametrize" and len(node.args) > 1:
                yield from rows(node)


def rows(node: ast.Call) -> Iterator[tuple[str, str, bool]]:
    try:
        names, values = ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1])
    except ValueError:
        return
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if {"gold", "pred", "expected"} <= set(columns):
        for row in values:
            found = dict(zip(columns, row, strict=False))
            yield found["gold"], found["pred"], bool(found["expected"])


def is_plain(text: str) -> bool:
    """Whether it is an answer alone, without a sentence around it."""
    return "boxed" not in text and not re.findall(r"[A-Za-z]{3,}", re.sub(r"\\[a-zA-Z]+", "", text))


def test_plain_cases_agree_but_for_policies() -> None:
    found = [case for case in cases(Path(FOLDER)) if is_plain(case[0]) and is_plain(case[1])]
    right = [case for case in found if is_right(case[1], case[0]) == case[2]]
    assert len(found) > 90
    assert len(right) >= LEAST_AGREEMENT * len(found), [case for case in found if case not in right]


def test_what_the_suite_rejects_is_rejected_but_for_policies() -> None:
    paid = [case for case in cases(Path(FOLDER)) if not case[2] and is_plain(case[1]) and is_right(case[1], case[0])]
    assert all("le" in answer or "<" in answer for _, answer, _ in paid), paid


def is_right(answer: str, gold: str) -> bool:
    request = VerificationRequest(kind="math", response=answer, golds=(gold,), options={"bare": True})
    return verify_math(request).verdict is Verdict.CORRECT
