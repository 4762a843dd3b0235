"""A task's own judge of outputs, where more than one output is right. It runs in the sandbox too: it reads what model code wrote.

It is called as `checker.py input.txt expected.txt output.txt` and answers as generated checkers do, by the number or word that it prints
last (1, 0, 0.5, true, false, ok, wrong answer), or as testlib's do, by its exit code: 0 right, 1 and 2 wrong.
"""

import re

from oprime_verifier.code.suite import BadTaskError, ProgramCase
from oprime_verifier.sandbox.types import Ending, Job, Limits, RunResult, Sandbox

LIMITS = Limits(cpu_s=10.0, wall_s=31.0)
_YES, _NO = {"true", "ok", "yes", "accepted", "correct", "ac"}, {"false", "no", "wrong", "rejected", "incorrect", "wa"}


class Checker:
    def __init__(self, sandbox: Sandbox, source: str, runs: int) -> None:
        """For about so many outputs."""
        self._repeated = sandbox.repeat(Job(entry="checker", source=source, limits=LIMITS), runs)

    def close(self) -> None:
        self._repeated.close()

    def accepts(self, case: ProgramCase, output: bytes) -> bool:
        """Raises BadTaskError for a checker that does not work even on the expected output."""
        decided = _decision(self._run(case, output))
        if decided is not None:
            return decided
        # It broke: by an output it was not made for, or always.
        if _decision(self._run(case, case.expected)) is not True:
            raise BadTaskError("the task's checker fails even for the expected output")
        return False

    def _run(self, case: ProgramCase, output: bytes) -> RunResult:
        texts = {"input": case.stdin, "expected": case.expected, "output": output}
        arguments = {name: text.decode("utf-8", "surrogateescape") for name, text in texts.items()}
        run = self._repeated.start(output, wall_s=LIMITS.wall_s, arguments=arguments).wait()
        if run.ending is Ending.COMPILE:
            raise BadTaskError("the task's checker does not compile")
        return run


def _decision(run: RunResult) -> bool | None:
    """None where it did not come to one."""
    if run.ending is not Ending.EXITED or run.exit_code not in (0, 1, 2) or b"Traceback (most recent call last)" in run.stderr:
        return None
    words = run.stdout[-4096:].decode(errors="replace").lower().split()
    printed = _word(words)
    return run.exit_code == 0 if printed is None else printed and run.exit_code == 0


def _word(words: list[str]) -> bool | None:
    if not words:
        return None
    last = words[-1].strip(".!:,")
    if re.fullmatch(r"\d+(\.\d*)?", last):
        return float(last) >= 1.0
    if last in _YES or last in _NO:
        return last in _YES
    return words[0].strip(".!:,") in _YES if words[0].strip(".!:,") in _YES | _NO else None
