"""Judge a program by what it writes: a process per test, which sees that test's input alone."""

import contextlib
from collections.abc import Iterator

from oprime.core.verification import Verdict
from oprime_verifier.code.checker import Checker
from oprime_verifier.code.compare import OutputRule, outputs_match
from oprime_verifier.code.options import CodeOptions, Comparison, Scoring
from oprime_verifier.code.suite import ProgramCase
from oprime_verifier.code.task import Report, Task, explain_run, result_of, verdict_of, was_starved
from oprime_verifier.sandbox.types import Job, Repeated, RunResult


def judge_programs(task: Task) -> Iterator[Report]:
    """Shortest tests first: most wrong programs fail on those too, and cost less there."""
    cases, options = in_order(list(task.suite.programs), task.options), task.options
    job = Job(source=task.program, language=options.language, limits=task.limits, seed=task.seed, profile=options.profile)
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(contextlib.closing(task.sandbox.repeat(job, len(cases))))
        checker = _checker(task, len(cases))
        if checker is not None:
            stack.enter_context(contextlib.closing(checker))
        for index, case in cases:
            task.check_deadline()
            yield _judge(task, index, case, program, checker)


def in_order(cases: list[ProgramCase], options: CodeOptions) -> list[tuple[int, ProgramCase]]:
    numbered = list(enumerate(cases))
    if options.pays is Scoring.FIRST_K:
        numbered = numbered[: options.first_k]
    return sorted(numbered, key=lambda pair: pair[1].size)


def _checker(task: Task, runs: int) -> Checker | None:
    # A comparison that the request asks for wins over the task's own checker.
    source = task.options.checker or (task.suite.checker if task.options.comparison is None else "")
    return Checker(task.sandbox, source, runs) if source else None


def _judge(task: Task, index: int, case: ProgramCase, program: Repeated, checker: Checker | None) -> Report:
    run = _run(task, case, program)
    verdict = verdict_of(run, task.options.allow_nonzero_exit)
    if verdict is not None:
        return Report(result=result_of(index, verdict, run), reason=explain_run(run, verdict), flags=_flags(run))
    if _is_right(task, case, run, checker):
        return Report(result=result_of(index, Verdict.CORRECT, run), flags=_flags(run))
    reason = "the program wrote nothing" if not run.stdout.strip() else "the program wrote a wrong output"
    return Report(result=result_of(index, Verdict.INCORRECT, run), reason=reason, flags=_flags(run))


def _run(task: Task, case: ProgramCase, program: Repeated) -> RunResult:
    run = _run_once(task, case, program)
    return _run_once(task, case, program) if was_starved(run, task.limits) else run


def _run_once(task: Task, case: ProgramCase, program: Repeated) -> RunResult:
    return task.note(program.start(case.stdin, wall_s=task.limits.wall_s).wait())


def _flags(run: RunResult) -> tuple[str, ...]:
    return ("hack_suspected", "violation") if run.violations else ()


def _is_right(task: Task, case: ProgramCase, run: RunResult, checker: Checker | None) -> bool:
    if checker is not None:
        return checker.accepts(case, run.stdout)
    options = task.options
    rule = OutputRule(options.comparison or Comparison.TOKENS, options.abs_tolerance, options.rel_tolerance)
    return outputs_match(run.stdout, case.expected, rule)
