# ruff: noqa: E501 - a program in one line reads better than one cut in pieces
"""What a right solution may do, and what a task may ask for."""

import json
import shutil
from typing import Any

import pytest

from oprime.core.verification import VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier

SUM = {"inputs": ["1 2\n", "30 4\n", "100 200\n"], "outputs": ["3\n", "34\n", "300\n"]}

RIGHT_PROGRAMS = [
    "print(sum(map(int, input().split())))",
    "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
    "print(sum(map(int, open(0).read().split())))",
    "import os\nprint(sum(map(int, os.read(0, 1000).split())))",
    "import sys\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.readline().split())))",
    "total = 0\ndef add(n):\n    global total\n    total += n\nfor n in input().split():\n    add(int(n))\nprint(total)",
    "from __future__ import annotations\ndef main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())), end='   \\n\\n')\nsys.exit(0)",
    "import threading, sys\nsys.setrecursionlimit(10**6)\ndef go():\n    print(sum(map(int, input().split())))\nt = threading.Thread(target=go)\nt.start()",
]


@pytest.mark.parametrize("program", RIGHT_PROGRAMS)
def test_a_right_program_passes_however_it_reads_and_writes(ask: Any, program: str) -> None:
    outcome = ask(SUM, program)
    assert (outcome.verdict, outcome.score, len(outcome.tests)) == ("CORRECT", 1.0, 3)
    assert outcome.verifier.sandbox_profile.startswith("native")


ECHO_CALL = {"fn_name": "f", "cases": [{"args": [[1, 2]], "expected": [1, 2]}, {"args": [[]], "expected": []}]}
RIGHT_FUNCTIONS = [
    "def f(x): return x",
    "def f(x): return tuple(x)",
    "def f(x):\n    print('debug', x)\n    return x",
    "import sys\ndef f(x):\n    sys.stdout.write('{')\n    return x",
    "class Solution:\n    def f(self, x: List[int]) -> List[int]:\n        return x",
    "class Solution:\n    def f(self, x: Optional[List[int]]) -> List[int]:\n        return self.g(x)\n    def g(self, x):\n        return list(map(int, x))",
    "from typing import NamedTuple\nmemo = {}\ndef f(x):\n    global memo\n    memo[len(x)] = x\n    return memo[len(x)]",
    "class Mine(list): pass\ndef f(x): return Mine(x)",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\ndef f(x): return [P(n).a for n in x]",
    "f = lambda x: x[:]",
    "if __name__ == '__main__':\n    raise SystemExit\ndef f(x): return x",
]


@pytest.mark.parametrize("program", RIGHT_FUNCTIONS)
def test_a_right_function_passes_however_it_is_written(ask: Any, program: str) -> None:
    assert ask(ECHO_CALL, program).verdict == "CORRECT"


def test_numpy_results_count_as_lists_and_numbers(ask: Any) -> None:
    program = "import numpy as np\ndef f(x): return np.array(x)"
    assert ask(ECHO_CALL, program, profile="numpy").verdict == "CORRECT"
    assert ask(ECHO_CALL, program).score == 0.0
    total = {"fn_name": "f", "cases": [{"args": [[1, 2]], "expected": 3}]}
    assert ask(total, "import numpy as np\ndef f(x): return np.sum(np.array(x))", profile="numpy").verdict == "CORRECT"


@pytest.mark.parametrize(
    ("outputs", "program", "score"),
    [
        (["[3]", "[5]"], "def f(x): return {1: 3, 2: 5}[x]", 1.0),
        (["[3]", "[5]"], "def f(x): return [{1: 3, 2: 5}[x]]", 1.0),
        (["[3]", "[5]"], "def f(x): return [3] if x == 1 else 5", 0.0),
        (["[3]", "[5, 6]"], "def f(x): return 3 if x == 1 else [5, 6]", 0.0),
        (["[3]", "[5, 6]"], "def f(x): return [3] if x == 1 else [5, 6]", 1.0),
        (["[3, 4]", "[5, 6]"], "def f(x): return 3 if x == 1 else 5", 0.0),
    ],
)
def test_a_wrapped_expected_value_is_unwrapped_for_all_tests_or_for_none(ask: Any, outputs: list[str], program: str, score: float) -> None:
    assert ask({"fn_name": "f", "inputs": ["1", "2"], "outputs": outputs}, program).score == score


ASSERTED = [
    ("assert f([3, 1]) is None\n", "def f(x): x.sort()"),
    ("items = [3, 1]\nf(items)\nassert items == [1, 3]", "def f(x): x.sort()"),
    ("grid = {'a': [1]}\nf(grid)\nassert grid == {'a': [1, 2]}", "def f(x): x['a'].append(2)"),
    ("assert list(f(3)) == [0, 1, 2]", "def f(n):\n    for i in range(n):\n        yield i"),
    ("g = f()\nassert next(g) == 0\nassert next(g) == 1", "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1"),
    ("assert list(f([1, 2])) == [2, 4]", "def f(x): return map(lambda n: 2 * n, x)"),
    ("assert f(lambda n: n + 1, 4) == 5", "def f(g, n): return g(n)"),
    ("assert f([1, 2], key=len) == 2", "def f(x, key): return key(x)"),
    ("assert f(int, '4') == 4", "def f(kind, text): return kind(text)"),
    ("assert f(2)(3) == 5", "def f(a): return lambda b: a + b"),
    ("box = Box(2)\nbox.put(3)\nassert box.total == 5\nassert len(box) == 2", "class Box:\n    def __init__(self, n): self.items = [n]\n"
     "    def put(self, n): self.items.append(n)\n    def __len__(self): return len(self.items)\n    @property\n    def total(self): return sum(self.items)"),
    ("assert total([Pair(1, 2), Pair(3, 4)]) == 10", "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef total(x): return sum(p.a + p.b for p in x)"),
    ("try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert 'negative' in str(error)", "def f(x):\n    raise ValueError('negative')"),
    ("try:\n    f(-1)\n    assert False\nexcept TooSmall:\n    pass", "class TooSmall(Exception): pass\ndef f(x):\n    raise TooSmall()"),
    ("assert f(4) == pytest.approx(2.0000001)\nimport pytest\n".replace("assert", "import pytest\nassert", 1), "def f(x): return x ** 0.5"),
    ("from solution import f\nimport pytest\n\n@pytest.mark.parametrize('x, y', [(1, 2), (2, 3)])\ndef test_f(x, y):\n    assert f(x) == y\n\n"
     "def test_bad():\n    with pytest.raises(TypeError):\n        f('a')\n", "def f(x): return x + 1"),
    ("import unittest\nclass TestF(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n    def test_b(self):\n        self.assertRaises(TypeError, f, 'a')\n"
     "if __name__ == '__main__':\n    unittest.main()", "def f(x): return x + 1"),
    ("assert f('a') == {'a': 1}\nassert f('')== {}", "from collections import Counter, defaultdict\ndef f(x): return Counter(x)"),
    ("assert f() == (1, {2}, frozenset({3}), b'4', 5j, None, 1 << 70, float('inf'))", "def f(): return 1, {2}, frozenset({3}), b'4', 5j, None, 1 << 70, float('inf')"),
    ("solution = Solution()\nassert solution.f(1) == 2\nassert solution.f(1) == 3",
     "class Solution:\n    def __init__(self): self.seen = 0\n    def f(self, x):\n        self.seen += x\n        return 1 + self.seen"),
    ("for x in range(5):\n    assert f(x) == x * x", "def f(x): return x * x"),
    ("def check(f):\n    assert f(1) == 2\ncheck(add_one)", "def add_one(x): return x + 1"),
    ("def check(candidate):\n    assert candidate(1) == 2", "def helper(): return 1\ndef anything(x): return x + helper()"),
]  # fmt: skip


@pytest.mark.parametrize(("tests", "program"), ASSERTED)
def test_test_source_of_every_style_is_run(ask: Any, tests: str, program: str) -> None:
    outcome = ask(json.dumps({"functional": tests}), program)
    assert outcome.verdict == "CORRECT", outcome


def test_objects_of_the_tasks_classes_cross_even_in_a_circle(ask: Any) -> None:
    tests = {
        "prompt": "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val = val\n        self.next = next\n",
        "entry_point": "Solution().f",
        "test": "def check(candidate):\n    ring = ListNode(1, ListNode(2))\n    ring.next.next = ring\n    assert candidate(head=ring) == True\n"
        "    assert candidate(head=ListNode(1)) == False\n",
    }
    program = """class Solution:
    def f(self, head: Optional[ListNode]) -> bool:
        slow = fast = head
        while fast and fast.next:
            slow, fast = slow.next, fast.next.next
            if slow is fast:
                return True
        return False"""
    assert ask(tests, program).verdict == "CORRECT"


def test_results_of_evalplus_inputs_come_from_the_canonical_solution(ask: Any) -> None:
    tests = {
        "prompt": "def f(x):\n    '''Half.'''\n",
        "entry_point": "f",
        "canonical_solution": "    return x / 2\n",
        "base_input": [[1], [4]],
        "plus_input": [[7]],
    }
    assert ask(tests, "def f(x): return x * 0.5").verdict == "CORRECT"
    assert ask(tests, "def f(x): return x // 2").verdict == "INCORRECT"


def test_partial_credit_runs_everything_and_pays_a_share(ask: Any) -> None:
    program = "a, b = map(int, input().split())\nprint(a + b if a < 50 else 0)"
    whole, share = ask(SUM, program), ask(SUM, program, scoring="share")
    assert (whole.verdict, whole.score) == ("INCORRECT", 0.0)
    assert (share.verdict, share.score, len(share.tests)) == ("PARTIAL", pytest.approx(2 / 3), 3)
    assert ask(
        {"test_list": ["assert f(1) == 1", "assert f(2) == 3", "assert f(4) == 4"]}, "def f(x): return x", partial=True
    ).score == pytest.approx(2 / 3)


def test_the_first_failure_ends_the_run(ask: Any) -> None:
    outcome = ask(SUM, "print(0)")
    assert (len(outcome.tests), outcome.tests[0].index) == (1, 0)
    assert "3 in all" in outcome.reason


def test_a_group_of_tests_is_paid_as_a_whole(ask: Any) -> None:
    tests = [
        {"input": "1", "output": "1", "group": "small", "weight": 1},
        {"input": "2", "output": "2", "group": "small", "weight": 1},
        {"input": "30", "output": "30", "group": "large", "weight": 6},
    ]
    assert ask(tests, "n = input()\nprint(n if n != '2' else 0)", scoring="weighted").score == 0.75
    assert ask(tests, "n = input()\nprint(n if n != '30' else 0)", scoring="weighted").score == 0.25


def test_only_the_first_tests_count_when_asked(ask: Any) -> None:
    program = "a, b = map(int, input().split())\nprint(a + b if a < 50 else 0)"
    assert ask(SUM, program, scoring="first_k", first_k=2).verdict == "CORRECT"


CHECKER = """import sys
n = int(open(sys.argv[1]).read())
try:
    a, b = map(int, open(sys.argv[3]).read().split())
except ValueError:
    print(0)
else:
    print(1 if a + b == n and a > 0 and b > 0 else 0)
"""


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("print(1, int(input()) - 1)", "CORRECT"),
        ("print(2, int(input()) - 2)", "CORRECT"),
        ("print(0, input())", "INCORRECT"),
        ("print('x')", "INCORRECT"),
    ],
)
def test_a_generated_checker_accepts_every_right_output(ask: Any, program: str, verdict: str) -> None:
    tests = {"official_tests": [{"input": "5", "output": "2 3"}, {"input": "9", "output": "4 5"}], "generated_checker": CHECKER}
    assert ask(tests, program).verdict == verdict


def test_a_checker_may_answer_by_its_exit_code(ask: Any) -> None:
    tests = {"inputs": ["5"], "outputs": ["2 3"]}
    checker = "import sys\nfrom pathlib import Path\nsys.exit(0 if sum(map(int, Path(sys.argv[3]).read_text().split())) == 5 else 1)"
    assert ask(tests, "print(4, 1)", checker=checker).verdict == "CORRECT"
    assert ask(tests, "print(4, 4)", checker=checker).verdict == "INCORRECT"


def test_a_checker_that_never_works_is_the_tasks_fault(ask: Any) -> None:
    for checker in ("raise RuntimeError", "def", "import os\nos.abort()"):
        assert ask({"inputs": ["5"], "outputs": ["2 3"]}, "print(1)", checker=checker).verdict == "BAD_TASK"


@pytest.mark.parametrize(
    "tests",
    [
        {"test_list": ["assert g(h(1)) =="]},
        {"functional": "import nothing_there\nassert f(1) == 1"},
        {"functional": "f = len\nassert f([]) == 0"},
    ],
)
def test_tests_that_do_not_run_are_the_tasks_fault(ask: Any, tests: Any) -> None:
    assert ask(tests, "def f(x): return x").verdict == "BAD_TASK"


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("while True: pass", "TIME"),
        ("x = [0] * 10**9", "MEMORY"),
        ("while True: print('x' * 10000)", "OUTPUT"),
        ("1 / 0", "RUNTIME"),
        ("def", "COMPILE"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "RUNTIME"),
    ],
)
def test_limits_have_verdicts_of_their_own(ask: Any, program: str, verdict: str) -> None:
    assert ask(SUM, program, cpu_s=1.0).verdict in ({verdict, "VIOLATION"} if "kill" in program else {verdict})
    function = {"fn_name": "f", "cases": [{"args": [], "expected": 1}]}
    inside = "def f():\n    " + program.replace("\n", "\n    ")
    assert ask(function, inside, cpu_s=1.0).score == 0.0
    if verdict in ("TIME", "MEMORY"):
        assert ask(function, inside, cpu_s=1.0).verdict == verdict
        assert ask({"test_list": ["assert f() == 1"]}, inside, cpu_s=1.0).verdict == verdict


CPP = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
JAVASCRIPT = "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number);\nconsole.log(a + b);"


@pytest.mark.parametrize(("language", "compiler", "program"), [("cpp", "g++", CPP), ("javascript", "node", JAVASCRIPT)])
def test_programs_in_other_languages_are_judged(verifier: CodeVerifier, language: str, compiler: str, program: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    wrong = program.replace("a + b", "a - b")
    for source, verdict in ((program, "CORRECT"), (wrong, "INCORRECT"), ("int (", "COMPILE")):
        request = VerificationRequest(
            kind="code", response=f"```{language}\n{source}\n```", tests=json.dumps(SUM), options={"language": language}
        )
        assert verifier.verify(request).verdict == verdict


def test_functions_are_judged_in_python_alone(verifier: CodeVerifier) -> None:
    request = VerificationRequest(
        kind="code",
        response=f"```cpp\n{CPP}\n```",
        tests='{"fn_name": "f", "inputs": ["1"], "outputs": ["1"]}',
        options={"language": "cpp"},
    )
    outcome = verifier.verify(request)
    assert (outcome.verdict, outcome.score) == ("NOT_APPLICABLE", None)


@pytest.mark.parametrize("statement", ["os.fork()", "open('/tmp/oprime-file-of-a-test', 'w')", "subprocess.run(['true'])"])
def test_27_to_38_a_program_that_fails_by_the_sandbox_is_told_so(ask: Any, statement: str) -> None:
    program = f"import os, subprocess\ndef f():\n    {statement}\n    return 1\n"
    for tests, source in (
        (SUM, program + "f()"),
        ({"fn_name": "f", "cases": [{"args": [], "expected": 1}]}, program),
        ({"test_list": ["assert f() == 1"]}, program),
    ):
        assert ask(tests, source).verdict == "VIOLATION"


def test_another_exit_code_may_be_allowed(ask: Any) -> None:
    program = "import sys\nprint(sum(map(int, input().split())))\nsys.exit(2)"
    assert ask(SUM, program).verdict == "RUNTIME"
    assert ask(SUM, program, allow_nonzero_exit=True).verdict == "CORRECT"


def test_the_same_program_is_run_once(verifier: CodeVerifier) -> None:
    request = VerificationRequest(kind="code", response="```python\nprint(3)  # once\n```", tests=json.dumps(SUM))
    first, second = verifier.verify(request), verifier.verify(request)
    assert first.timings["run"] > 0.0
    assert second.timings["run"] == 0.0
    assert (second.verdict, second.tests) == (first.verdict, first.tests)


def test_tests_may_come_as_the_only_gold(verifier: CodeVerifier) -> None:
    program = f"```python\n{RIGHT_PROGRAMS[0]}\n```"
    assert verifier.verify(VerificationRequest(kind="code", response=program, golds=(json.dumps(SUM),))).verdict == "CORRECT"
    assert verifier.verify(VerificationRequest(kind="code", response=program, golds=(json.dumps(SUM), "x"))).verdict == "BAD_TASK"
    assert verifier.verify(VerificationRequest(kind="code", response=program)).verdict == "BAD_TASK"


def test_a_wrong_option_is_named(ask: Any) -> None:
    outcome = ask(SUM, "print(1)", comparison="fuzzy")
    assert outcome.verdict == "BAD_TASK"
    assert "options.comparison" in outcome.reason


def test_a_deadline_on_a_busy_host_is_nobodys_fault(verifier: CodeVerifier) -> None:
    late = VerificationRequest(kind="code", response="```python\nprint(4)  # late\n```", tests=json.dumps(SUM), deadline_s=0.4)
    assert verifier.verify(late).verdict == "INFRA_ERROR"


def test_no_code_scores_nothing(verifier: CodeVerifier) -> None:
    outcome = verifier.verify(VerificationRequest(kind="code", response="The answer is 4.", tests=json.dumps(SUM)))
    assert (outcome.verdict, outcome.score) == ("NO_ANSWER", 0.0)
    assert outcome.reason.startswith("no_code")
