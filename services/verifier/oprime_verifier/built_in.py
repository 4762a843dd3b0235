"""The built-in verifiers of a worker: math, code, exact, chain, paper_math."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from oprime.core.verification import Outcome, VerificationRequest
from oprime_verifier.code.options import CodeOptions
from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.exact_verifier import verify_chain, verify_exact
from oprime_verifier.math import verifier as math_verifier
from oprime_verifier.math.options import MathOptions
from oprime_verifier.paper.verifier import PaperMathOptions, verify_paper_math
from oprime_verifier.registry import Entry, Registry
from oprime_verifier.sandbox.open import Engine, open_sandbox
from oprime_verifier.sandbox.report import self_test
from oprime_verifier.sandbox.types import Sandbox


class CodeInSandbox:
    """Opens the sandbox with the first code task: a worker that sees only mathematics needs none."""

    def __init__(self, engine: Engine, options: Mapping[str, Any]) -> None:
        self._engine: Engine = engine
        self._options = options
        self._sandbox: Sandbox | None = None
        self._verifier: CodeVerifier | None = None

    def verify(self, request: VerificationRequest) -> Outcome:
        if self._verifier is None:
            self._sandbox = open_sandbox(self._engine)
            self._verifier = CodeVerifier(self._sandbox)
        return self._verifier.verify(with_defaults(request, self._options))

    def self_test(self) -> dict[str, Any]:
        return self_test(self._engine).to_dict()

    def close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()


def built_in(setup: Mapping[str, Any]) -> Registry:
    """What a `WorkerSetup` without a plug-in asks for, warmed up."""
    math_verifier.warm_up()
    code, mathematics = CodeInSandbox(setup["engine"], setup["code"]), dict(setup["math"])
    oprime = version("oprime")

    def close() -> None:
        math_verifier.close()
        code.close()

    return Registry(
        [
            Entry(
                name="math",
                verify=lambda request: math_verifier.verify_math(with_defaults(request, mathematics)),
                version=f"{oprime} (sympy {version('sympy')})",
                description="Mathematical equality of the final answer.",
                options_schema=MathOptions.model_json_schema(),
            ),
            Entry(
                name="code",
                verify=code.verify,
                version=oprime,
                description="Tests of a program or a function, run in the sandbox.",
                options_schema=CodeOptions.model_json_schema(),
            ),
            Entry(
                name="exact",
                verify=verify_exact,
                version=oprime,
                description="Equality of the text after the last #, or of the whole response.",
            ),
            Entry(name="chain", verify=verify_chain, version=oprime, description="The last word must be #ANSWER (built-in chain task)."),
            Entry(
                name="paper_math",
                verify=verify_paper_math,
                version=f"{oprime} (sympy {version('sympy')})",
                description="The paper's own grading of mathematics, for comparisons with published numbers.",
                options_schema=PaperMathOptions.model_json_schema(),
            ),
        ],
        self_test=code.self_test,
        close=close,
    )


def with_defaults(request: VerificationRequest, defaults: Mapping[str, Any]) -> VerificationRequest:
    """The service's options, except where the request names its own."""
    return replace(request, options={**defaults, **request.options}) if defaults else request
