"""Judges a program with somebody else's SandboxFusion: it runs the program on each test's input, the comparison happens here.

Expected outputs never leave this service. Only tests of standard input and output are judged; others are NOT_APPLICABLE.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import ValidationError

from oprime.core.verification import Outcome, TestResult, Verdict, VerificationRequest, correct, incorrect, no_answer, unscored
from oprime.runtime.settings import describe
from oprime_verifier.code.compare import OutputRule, outputs_match
from oprime_verifier.code.extract import NoCodeError, extract_program
from oprime_verifier.code.formats import parse_tests
from oprime_verifier.code.options import CodeOptions, Comparison
from oprime_verifier.code.suite import BadTaskError, Kind, ProgramCase
from oprime_verifier.external.results import BrokenContractError, finite_numbers

DEFAULT_CPU_S = 4.0
COMPILE_S = 20.0
_ENDINGS = ("Finished", "Error", "TimeLimitExceeded")
_LANGUAGES = {"python": "python", "cpp": "cpp", "javascript": "nodejs"}

RunCode = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | Outcome]]
"""The answer of /run_code to a message, or why there is none."""


async def judge_with_run_code(request: VerificationRequest, run_code: RunCode) -> Outcome:
    """All tests in order, up to the first that fails."""
    try:
        options = CodeOptions.model_validate(dict(request.options))
        suite = parse_tests(request.tests or "".join(request.golds[:1]))
        source = extract_program(request.response, options.language, options.bare)
    except ValidationError as error:
        return unscored(Verdict.BAD_TASK, f"options: {describe(error)}")
    except BadTaskError as error:
        return unscored(Verdict.BAD_TASK, str(error))
    except NoCodeError as error:
        return no_answer(str(error))
    if suite.kind is not Kind.PROGRAM or suite.checker or options.checker:
        return unscored(
            Verdict.NOT_APPLICABLE, "a sandbox_fusion webhook compares programs' outputs; it calls no functions and no checkers"
        )
    message = {
        "code": source,
        "language": _LANGUAGES[options.language],
        "run_timeout": options.cpu_s or (suite.cpu_s or DEFAULT_CPU_S) * options.cpu_factor,
        "compile_timeout": COMPILE_S,
    }
    rule = OutputRule(options.comparison or Comparison.TOKENS, options.abs_tolerance, options.rel_tolerance)
    return await _run_all(run_code, suite.programs, message, rule)


async def _run_all(run_code: RunCode, cases: tuple[ProgramCase, ...], message: Mapping[str, Any], rule: OutputRule) -> Outcome:
    done: list[TestResult] = []
    for index, case in enumerate(cases):
        answer = await run_code({**message, "stdin": case.stdin.decode(errors="replace")})
        if isinstance(answer, Outcome):
            return answer
        verdict, seconds = verdict_of(answer, case.expected, rule)
        done.append(TestResult(index=index, verdict=verdict, wall_s=seconds))
        if verdict is not Verdict.CORRECT:
            details: dict[str, Any] = {
                "answer": message["code"],
                "tests": tuple(done),
                "reason": f"test {index} of {len(cases)}: {verdict}",
            }
            return incorrect(**details) if verdict is Verdict.INCORRECT else Outcome(verdict=verdict, score=0.0, **details)
    return correct(answer=message["code"], tests=tuple(done))


def check_ran(answer: object) -> Mapping[str, Any]:
    """The answer of /run_code, if it says how the program ended. Raises BrokenContractError: the sandbox failed, not the program."""
    if not isinstance(answer, Mapping):
        raise BrokenContractError(f"the sandbox did not run the program: it answered a {type(answer).__name__}")
    if answer.get("status") not in ("Success", "Failed"):
        raise BrokenContractError(f"the sandbox did not run the program: {answer.get('message') or answer.get('status')}")
    compiled = answer.get("compile_result")
    ended = (
        ["run_result"]
        if not isinstance(compiled, Mapping)
        else ["compile_result"]
        if _failed(compiled)
        else ["compile_result", "run_result"]
    )
    for name in ended:
        part = answer.get(name)
        if not isinstance(part, Mapping) or part.get("status") not in _ENDINGS:
            raise BrokenContractError(f"the sandbox did not say how the program ended: {name}.status is none of {', '.join(_ENDINGS)}")
    return answer


def _failed(part: Mapping[str, Any]) -> bool:
    return part.get("status") != "Finished" or part.get("return_code") not in (0, None)


def verdict_of(answer: Mapping[str, Any], expected: bytes, rule: OutputRule) -> tuple[Verdict, float]:
    """The verdict of one run that `check_ran` let pass, and its seconds."""
    compiled, run = answer.get("compile_result"), answer.get("run_result")
    if isinstance(compiled, Mapping) and _failed(compiled):
        return Verdict.COMPILE, 0.0
    assert isinstance(run, Mapping)  # noqa: S101 - checked
    seconds = finite_numbers(run).get("execution_time", 0.0)
    if run.get("status") == "TimeLimitExceeded":
        return Verdict.TIME, seconds
    if _failed(run):
        return Verdict.RUNTIME, seconds
    same = outputs_match(str(run.get("stdout") or "").encode(), expected, rule)
    return Verdict.CORRECT if same else Verdict.INCORRECT, seconds
