"""The code verifier: a program against its tests."""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from oprime.core.verification import Outcome, Verdict, VerificationRequest, VerifierIdentity, no_answer, unscored
from oprime_verifier.code.asserts import judge_asserts
from oprime_verifier.code.calls import judge_calls
from oprime_verifier.code.extract import NoCodeError, complete, extract_program
from oprime_verifier.code.formats import parse_tests
from oprime_verifier.code.options import CodeOptions
from oprime_verifier.code.programs import judge_programs
from oprime_verifier.code.scoring import outcome_of
from oprime_verifier.code.suite import BadTaskError, Kind, TestSuite
from oprime_verifier.code.task import OutOfTimeError, Report, Task, UndecidedError
from oprime_verifier.sandbox.types import Sandbox, SandboxFailedError

MAX_SOURCE_BYTES = 1024 * 1024
KEPT_SUITES = 64
KEPT_SUITE_CHARS = 50_000_000
KEPT_OUTCOMES = 4096
KEPT_RESULTS = 256
"""Most test results of an outcome that is worth keeping."""
RESERVE_S = 0.5
"""What the deadline leaves for the answer itself."""
LOADED = 1.5
"""From so many runnable processes per core on, a program gets less time than it could use."""
_JUDGES: dict[Kind, Callable[[Task], Iterator[Report]]] = {
    Kind.PROGRAM: judge_programs,
    Kind.CALL: judge_calls,
    Kind.ASSERTS: judge_asserts,
}
_BIDI = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
"""Characters that make a reader see another program than the one that runs."""


class CodeVerifier:
    """Not safe for use from several threads at once, like its sandbox."""

    def __init__(self, sandbox: Sandbox, defaults: Mapping[str, Any] | None = None) -> None:
        """`defaults` are options for requests that do not set them."""
        self._sandbox = sandbox
        self._defaults = dict(defaults or {})
        self._suites: OrderedDict[bytes, TestSuite] = OrderedDict()
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()

    def verify(self, request: VerificationRequest) -> Outcome:
        started = time.monotonic()
        try:
            options = CodeOptions.model_validate({**self._defaults, **request.options})
            tests = _tests_of(request)
            suite = self._suite(tests)
            _check_language(suite, options)
            program = extract_program(request.response, options.language, options.bare)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return unscored(Verdict.BAD_TASK, f"options.{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except BadTaskError as error:
            return unscored(Verdict.BAD_TASK, str(error))
        except NotSupportedError as error:
            return unscored(Verdict.NOT_APPLICABLE, str(error))
        except NoCodeError as error:
            return no_answer(str(error))
        return self._judged(request, options, suite, tests, program, started)

    def _judged(
        self, request: VerificationRequest, options: CodeOptions, suite: TestSuite, tests: str, program: str, started: float
    ) -> Outcome:
        program = complete(program, suite.prompt, suite.entry_point)
        refusal = _refusal(program)
        if refusal is not None:
            return replace(refusal, answer=program[:4096])
        key = _key(tests, program, options, request.seed)
        known = self._outcomes.get(key)
        if known is not None:
            self._outcomes.move_to_end(key)
            return replace(known, answer=program, timings={"run": 0.0})
        ends_at = started + request.deadline_s - RESERVE_S if request.deadline_s > 0 else float("inf")
        task = Task(sandbox=self._sandbox, suite=suite, program=program, options=options, seed=request.seed, ends_at=ends_at)
        outcome = replace(_run(task), timings=task.timings, verifier=VerifierIdentity(sandbox_profile=task.profile))
        if outcome.cacheable and len(outcome.tests) <= KEPT_RESULTS:
            self._outcomes[key] = outcome
            _shrink(self._outcomes, KEPT_OUTCOMES)
        return replace(outcome, answer=program)

    def _suite(self, tests: str) -> TestSuite:
        key = hashlib.blake2b(tests.encode("utf-8", "surrogatepass")).digest()
        suite = self._suites.get(key)
        if suite is None:
            suite = parse_tests(tests)
            if len(tests) <= KEPT_SUITE_CHARS // KEPT_SUITES:
                self._suites[key] = suite
                _shrink(self._suites, KEPT_SUITES)
        else:
            self._suites.move_to_end(key)
        return suite


class NotSupportedError(Exception):
    """The task asks for something that this verifier does not do."""


def _shrink(kept: OrderedDict[bytes, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def _tests_of(request: VerificationRequest) -> str:
    if request.tests:
        return request.tests
    if len(request.golds) > 1:
        raise BadTaskError(f"golds has {len(request.golds)} entries; a code task has its tests in `tests` or in one gold")
    return request.golds[0] if request.golds else ""


def _check_language(suite: TestSuite, options: CodeOptions) -> None:
    if options.language != "python" and suite.kind is not Kind.PROGRAM:
        raise NotSupportedError(f"options.language is {options.language}: only programs with stdin and stdout are judged in it")


def _refusal(program: str) -> Outcome | None:
    """COMPILE for a source that no compiler should see."""
    size = len(program.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        reason = f"the program has {size} bytes; at most {MAX_SOURCE_BYTES} are compiled"
    elif "\0" in program:
        reason = "the program has a NUL character"
    elif len(program.translate(_BIDI)) != len(program):
        reason = "the program has characters that change the direction of text, which hide what it does"
    else:
        return None
    return Outcome(verdict=Verdict.COMPILE, score=0.0, reason=reason)


def _key(tests: str, program: str, options: CodeOptions, seed: int) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in (tests, program, options.model_dump_json(), str(seed)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _run(task: Task) -> Outcome:
    try:
        outcome = _first_run(task)
        return _with_reruns(task, outcome) if outcome.verdict is Verdict.CORRECT else outcome
    except BadTaskError as error:
        return unscored(Verdict.BAD_TASK, str(error))
    except UndecidedError as error:
        return unscored(Verdict.UNDECIDED, str(error), flags=("hack_suspected",))
    except SandboxFailedError as error:
        return unscored(Verdict.INFRA_ERROR, f"the sandbox failed: {error}", cacheable=False)
    except OutOfTimeError:
        if task.used_its_time:
            reason = "the program used up the time for all tests"
            return Outcome(verdict=Verdict.TIME, score=0.0, reason=reason, cacheable=False)
        return unscored(Verdict.INFRA_ERROR, f"the deadline came before the last test{_on_what()}", cacheable=False)


def _on_what() -> str:
    """That the host is loaded, where it is."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f", on a loaded host (load {load:.1f} on {cores} cores)" if load > LOADED * cores else ""


def _first_run(task: Task) -> Outcome:
    return outcome_of(task, list(_until_failure(_JUDGES[task.suite.kind](task), task.options.runs_all)))


def _until_failure(reports: Iterable[Report], runs_all: bool) -> Iterator[Report]:
    for report in reports:
        yield report
        if not report.passed and not runs_all:
            return


def _with_reruns(task: Task, outcome: Outcome) -> Outcome:
    for turn in range(task.options.reruns):
        again = _first_run(replace(task, seed=task.seed + turn + 1))
        if again.verdict is not Verdict.CORRECT:
            return replace(again, flags=(*again.flags, "flaky"), cacheable=False, reason=f"a run with another seed failed: {again.reason}")
    return outcome
