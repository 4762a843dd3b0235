"""Which code the paper's evaluation takes of a response."""

import json

from oprime.core.types import Task
from oprime.evaluation import paper_code

RESPONSE = "Plan:\n```python\nprint(1)\n```\nCode:\n```python\nimport math\ndef f():\n    return math.pi\n```\nTry:\n```python\nf()\n```\n"


def task(truth: object) -> Task:
    return Task(messages=(), verifier="code", ground_truth=json.dumps(truth), data_source="test", verifier_options={"cpu_s": 9.0})


def test_the_last_block_with_a_function_counts() -> None:
    assert paper_code.code_of(RESPONSE) == "\nimport math\ndef f():\n    return math.pi\n"
    assert paper_code.code_of("```python\nx = 1\n```\n```python\ny = 2\n```") == "\ny = 2\n"
    assert paper_code.code_of("```\ndef g(): pass\n```") == "\ndef g(): pass\n"
    assert paper_code.code_of("x = 1\n``` and more") == "x = 1\n"


def test_leetcode_puts_a_function_into_a_class() -> None:
    asked = paper_code.leetcode(task({"test": "t"}), "```python\ndef f(self):\n    return 1\n```")
    assert asked.response == "class Solution:\n    \n    def f(self):\n        return 1\n    "
    assert (asked.kind, asked.options["bare"], asked.options["cpu_s"]) == ("code", True, 10.0)
    whole = "```python\nclass Solution:\n    def f(self): return 1\n```"
    assert paper_code.leetcode(task({}), whole).response == "\nclass Solution:\n    def f(self): return 1\n"


def test_mbpp_loses_imports() -> None:
    assert paper_code.mbpp(task({}), RESPONSE).response == "def f():\n    return math.pi"


def test_human_eval_puts_the_block_behind_the_prompt() -> None:
    asked = paper_code.human_eval(task({"prompt": 'def f():\n    """Pi."""\n'}), "```python\ndef f():\n    return 3\n```")
    assert asked.response == 'def f():\n    """Pi."""\n\ndef f():\n    return 3\n'


def test_live_code_bench_takes_what_stands_between_the_last_two_fences() -> None:
    assert paper_code.live_code_bench(task({}), RESPONSE).response == "f()"
    assert paper_code.live_code_bench(task({}), "print(1)").response == ""
