"""Which code the paper's evaluation takes of a response to a code benchmark. Our verifier then runs it, with the same tests.

The rules are those of the authors' evaluation scripts, restated: code is the last block fenced as Python that has a function in it.
"""

import json
import re

from oprime.core.types import Task
from oprime.core.verification import VerificationRequest

_PYTHON = re.compile(r"```python(.*?)```", re.DOTALL)
_ANY = re.compile(r"```(.*?)```", re.DOTALL)
LEETCODE_S = 10.0
HUMANEVAL_S = 3.0
MBPP_S = 3.0
LIVECODEBENCH_S = 6.0
"""Seconds that the authors' harness gives one problem, or with LiveCodeBench one test."""


def code_of(response: str) -> str:
    """The last Python block with a function, else the last Python block; without one, the same of any block; else what stands before the
    first fence."""
    for pattern in (_PYTHON, _ANY):
        blocks = pattern.findall(response)
        if blocks:
            return next((block for block in reversed(blocks) if "def " in block), blocks[-1])
    return response.partition("```")[0]


def in_class(code: str) -> str:
    """LeetCode: code without a `class Solution:` becomes the body of one."""
    if "class Solution:" in code:
        return code
    return "class Solution:\n" + "\n".join(f"    {line}" for line in code.split("\n"))


def functions_only(code: str) -> str:
    """MBPP: of what stands at the left edge, only lines that begin with `def` are kept; imports are lost."""
    return "\n".join(line for line in code.split("\n") if line[:1].isspace() or line.startswith("def"))


def leetcode(task: Task, response: str) -> VerificationRequest:
    return _request(task, in_class(code_of(response)), LEETCODE_S)


def mbpp(task: Task, response: str) -> VerificationRequest:
    return _request(task, functions_only(code_of(response)), MBPP_S)


def human_eval(task: Task, response: str) -> VerificationRequest:
    """The block stands behind the prompt, whose signature has a docstring for its body."""
    return _request(task, json.loads(task.ground_truth)["prompt"] + code_of(response), HUMANEVAL_S)


def _request(task: Task, code: str, seconds: float) -> VerificationRequest:
    options = {**task.verifier_options, "bare": True, "cpu_s": seconds}
    return VerificationRequest(kind="code", response=code, golds=(task.ground_truth,), options=options, data_source=task.data_source)


def live_code_bench(task: Task, response: str) -> VerificationRequest:
    """What stands between the last two lines with a fence."""
    lines = response.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    code = "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""
    return _request(task, code, LIVECODEBENCH_S)
