"""Code tasks of every kind, judged with the WebAssembly engine as with the native one."""

import json

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.sandbox.wasm import WasmSandbox

PROGRAM = json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})
CALL = json.dumps({"inputs": ["[1, 2]\n3"], "outputs": ["[1, 2, 3]"], "fn_name": "append"})
ASSERTS = json.dumps(["assert double(2) == 4", "assert double([1]) == [1, 1]"])
ANY_ORDER = "import sys\nwanted, given = (open(name).read().split() for name in sys.argv[2:4])\nsys.exit(sorted(wanted) != sorted(given))"
CHECKED = json.dumps({"inputs": ["x\n"], "outputs": ["1 2\n"]})

CASES = [
    (PROGRAM, "print(sum(map(int, input().split())))", {}, Verdict.CORRECT),
    (PROGRAM, "print(4)", {}, Verdict.INCORRECT),
    (CALL, "def append(values, value):\n    return [*values, value]", {}, Verdict.CORRECT),
    (CALL, "def append(values, value):\n    return values", {}, Verdict.INCORRECT),
    (ASSERTS, "def double(x):\n    return x * 2", {}, Verdict.CORRECT),
    (ASSERTS, "def double(x):\n    return x", {}, Verdict.INCORRECT),
    (CHECKED, "print(2, 1)", {"checker": ANY_ORDER}, Verdict.CORRECT),
    (CHECKED, "print(2, 2)", {"checker": ANY_ORDER}, Verdict.INCORRECT),
]


@pytest.mark.parametrize(("tests", "program", "options", "verdict"), CASES)
def test_a_task_of_every_kind_is_judged(wasm: WasmSandbox, tests: str, program: str, options: dict[str, str], verdict: Verdict) -> None:
    request = VerificationRequest(kind="code", response=program, tests=tests, options={"bare": True, **options})
    outcome = CodeVerifier(wasm).verify(request)
    assert outcome.verdict is verdict, outcome.reason
    assert outcome.verifier.sandbox_profile.startswith("wasm")
