import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oprime.core.verification import Outcome, VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.sandbox.native import NativeSandbox

Ask = Callable[..., Outcome]


@pytest.fixture(scope="package")
def verifier() -> Iterator[CodeVerifier]:
    sandbox = NativeSandbox()
    yield CodeVerifier(sandbox, {"cpu_s": 2.0, "wall_s": 6.0})
    sandbox.close()


@pytest.fixture(scope="package")
def ask(verifier: CodeVerifier) -> Ask:
    """Judge a program: `ask(tests, program, option=value...)`."""

    def judge(tests: Any, program: str, **options: Any) -> Outcome:
        text = tests if isinstance(tests, str) else json.dumps(tests)
        return verifier.verify(VerificationRequest(kind="code", response=f"```python\n{program}\n```", tests=text, options=options))

    return judge
