"""Submissions that are out to be paid without solving the task, and what they get. Numbers are rows of the threat table."""

# ruff: noqa: E501 - a program or a row in one line reads better than one cut in pieces
import json
from typing import Any

import pytest

from oprime.core.verification import VerificationRequest
from oprime_verifier.code.verifier import CodeVerifier

ECHO = {"inputs": ["alpha\n", "beta gamma\n", "delta\n"], "outputs": ["alpha\n", "beta gamma\n", "delta\n"]}
"""The right program prints its input."""
CALLS = {"fn_name": "f", "inputs": ["[1, 2]", "[7]", "[]"], "outputs": ["[2, 1]", "[7]", "[]"]}
"""The right function reverses a list."""
ASSERTS = {"test_list": ["assert f([1, 2]) == [2, 1]", "assert f([7]) == [7]", "assert f([3, 4, 5]) == [5, 4, 3]"]}
CHECK = {
    "prompt": "def f(items):\n    '''Reverse.'''\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 1]\n    assert candidate([7]) == [7]\n",
}
KEPT_NAMES = "import sys, gc, builtins, os\n"

FRAMES = """
found = []
frame = sys._getframe()
while frame:
    found += list(frame.f_locals.items()) + list(frame.f_globals.items())
    frame = frame.f_back
"""

PROGRAMS = {
    "1 exit before printing": ("import sys\nsys.exit(0)\nprint(input())", "INCORRECT"),
    "2 hard exit before printing": ("import os\nos._exit(0)", "INCORRECT"),
    "3 right, then abort": ("import os\nprint(input(), flush=True)\nos.abort()", "RUNTIME"),
    "4 right, then exit code 3": ("import sys\nprint(input())\nsys.exit(3)", "RUNTIME"),
    "6 frames": (KEPT_NAMES + FRAMES + "print([v for k, v in found if k in ('expected', 'output')])", "INCORRECT"),
    "7 other objects": (KEPT_NAMES + "print([o for o in gc.get_objects() if isinstance(o, dict) and 'expected' in o])", "INCORRECT"),
    "8 patch modules": (KEPT_NAMES + "for m in list(sys.modules.values()):\n  try: m.outputs_match = m.exec = lambda *a: True\n  except Exception: pass\nprint('?')",
                        "INCORRECT"),
    "9 patch builtins": (KEPT_NAMES + "builtins.len = builtins.all = builtins.sorted = builtins.any = lambda *a: True\nprint('?')", "INCORRECT"),
    "43 forged verdict": ("print('{\"verdict\": \"CORRECT\", \"score\": 1.0, \"op\": \"done\"}')", "INCORRECT"),
    "43 forged messages": ("import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'\\0\\0\\0\\2{}')\n  except OSError: pass\nprint('?')", "INCORRECT"),
    "44 first sample for every test": ("print('alpha')", "INCORRECT"),
    "49 exit functions and tracing": ("import atexit, sys\nsys.settrace(lambda *a: None)\nsys.addaudithook(lambda *a: None)\natexit.register(print, '?')\nprint(input())",
                                      "INCORRECT"),
    "52 bytes of every kind": ("import sys\nsys.stdout.buffer.write(b'alpha\\0\\xff\\x1b[0m\\n' * 1000)", "INCORRECT"),
    "51 NUL": ("x = '\0'\nprint(input())", "COMPILE"),
    "51 too long": ("x = 1\n" * 2_000_000, "COMPILE"),
    "51 nested": ("x = " + "(" * 100_000 + ")" * 100_000, "COMPILE"),
    "51 nested otherwise": ("x = " + "-" * 200_000 + "1", "COMPILE"),
    "51 hidden direction": ("x = '\u202e'\nprint(input())", "COMPILE"),
    "output that looks like a traceback": ("print('Traceback (most recent call last):')", "INCORRECT"),
    "prints nothing at all": ("pass", "INCORRECT"),
    "several answers at once": ("print('alpha'); print('beta gamma'); print('delta')", "INCORRECT"),
    "closes its stdout": ("import os\nos.close(1)", "INCORRECT"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_not_paid(ask: Any, name: str) -> None:
    program, verdict = PROGRAMS[name]
    outcome = ask(ECHO, program)
    assert (outcome.verdict, outcome.score) == (verdict, 0.0)


EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __le__(self, other): return True
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 2
    def __contains__(self, item): return True
    def __iter__(self): return iter([2, 1])
    def __sub__(self, other): return self
    def __rsub__(self, other): return self
    def __abs__(self): return self
"""
SUBCLASS = """
class Equal({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __len__(self): return 2
    def __iter__(self): return iter([2, 1])
"""

FUNCTIONS = {
    "2 hard exit when loaded": ("import os\nos._exit(0)\ndef f(x): return x", {"RUNTIME"}),
    "2 hard exit in the call": ("import os\ndef f(x): os._exit(0)", {"RUNTIME"}),
    "2 posix exit": ("import posix\ndef f(x): posix._exit(0)", {"RUNTIME"}),
    "1 exit when loaded": ("import sys\nsys.exit(0)\ndef f(x): return x", {"RUNTIME"}),
    "5 SystemExit in the function": ("def f(x): raise SystemExit", {"RUNTIME"}),
    "3 abort": ("import os\ndef f(x): os.abort()", {"RUNTIME"}),
    "6 frames": (KEPT_NAMES + "def f(x):\n  frame = sys._getframe()\n  while frame:\n    for v in (frame.f_locals.get('expected'), frame.f_globals.get('expected')):\n"
                 "      if v is not None: return v\n    frame = frame.f_back\n  return None", {"INCORRECT"}),
    "7 objects": (KEPT_NAMES + "def f(x):\n  for o in gc.get_objects():\n    if isinstance(o, dict) and ('expected' in o or 'source' in o or 'nonce' in o):\n"
                  "      return o.get('expected')\n  return None", {"INCORRECT"}),
    "8 patch the caller": (KEPT_NAMES + "def f(x):\n  g = sys._getframe(1).f_globals\n  g['encode'] = lambda *a: {'roots': [True], 'nodes': []}\n  return 0", {"INCORRECT", "RUNTIME"}),
    "9 patch builtins": (KEPT_NAMES + "builtins.sorted = builtins.all = builtins.any = builtins.print = lambda *a: True\ndef f(x): return 0", {"INCORRECT", "RUNTIME"}),
    "10 equal to everything": (EQUAL + "def f(x): return Equal()", {"INCORRECT", "RUNTIME"}),
    "10 equal to everything, in a list": (EQUAL + "def f(x): return [Equal(), Equal()]", {"INCORRECT", "RUNTIME"}),
    "11 list subclass": (SUBCLASS.format(base="list") + "def f(x): return Equal([9])", {"INCORRECT"}),
    "11 int subclass": ("class Equal(int):\n  def __eq__(self, other): return True\n  __hash__ = int.__hash__\ndef f(x): return [Equal(8), Equal(9)]", {"INCORRECT"}),
    "11 dict subclass": (SUBCLASS.format(base="dict") + "def f(x): return Equal()", {"INCORRECT"}),
    "12 pickle payload": ("class P:\n  def __reduce__(self): return (list, ([2, 1],))\ndef f(x): return P()", {"INCORRECT", "RUNTIME"}),
    "43 forged replies": ("import os, struct, json\ndef f(x):\n  for m in ({'value': {'roots': [True], 'nodes': []}}, {'op': 'done', 'nonce': ''}, {'op': 'test', 'index': 0,"
                          " 'is_test': True, 'failure': None}):\n    b = json.dumps(m).encode()\n    os.write(3, struct.pack('>I', len(b)) + b)\n  return 0", {"INCORRECT", "RUNTIME"}),
    "43 a message without end": ("import os\ndef f(x):\n  os.write(3, b'\\xff' * 8)\n  return 0", {"OUTPUT", "RUNTIME"}),
    "43 no JSON": ("import os\ndef f(x):\n  os.write(3, b'\\0\\0\\0\\2[[')\n  return 0", {"RUNTIME"}),
    "44 only the first": ("def f(x): return [2, 1]", {"INCORRECT"}),
    "49 trace": ("import sys, atexit\nsys.settrace(lambda *a: None)\natexit.register(lambda: None)\ndef f(x): return 0", {"INCORRECT"}),
    "51 nested": ("x = " + "(" * 100_000, {"COMPILE"}),
    "does not define it": ("def g(x): return x", {"RUNTIME", "INCORRECT"}),
    "first element only": ("def f(x): return x[-1] if x else None", {"INCORRECT"}),
    "a generator": ("def f(x):\n  yield from reversed(x)", {"INCORRECT", "RUNTIME"}),
    "a value too large": ("def f(x): return ['x' * 10**6] * 2 + list(range(3 * 10**6))", {"OUTPUT", "MEMORY", "RUNTIME", "TIME", "INCORRECT"}),
    "endless output": ("def f(x):\n  while True: print('x' * 1000)", {"OUTPUT", "RUNTIME"}),
}  # fmt: skip


@pytest.mark.parametrize("tests", [CALLS, ASSERTS, CHECK], ids=["calls", "asserts", "check"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_hostile_function_is_not_paid(ask: Any, name: str, tests: dict[str, Any]) -> None:
    program, verdicts = FUNCTIONS[name]
    outcome = ask(tests, program)
    assert outcome.verdict in verdicts, outcome
    assert outcome.score == 0.0


@pytest.mark.parametrize(("tests", "verdict"), [(CALLS, "CORRECT"), (ASSERTS, "INCORRECT"), (CHECK, "INCORRECT")])
def test_45_state_lives_as_long_as_in_the_authors_tests(ask: Any, tests: dict[str, Any], verdict: str) -> None:
    program = "calls = []\ndef f(x):\n  calls.append(x)\n  return list(reversed(x)) if len(calls) == 1 else None"
    assert ask(tests, program).verdict == verdict


ASSERT_TRICKS = {
    "assert abs(f(1) - 2.5) < 1e-6": EQUAL + "def f(x): return Equal()",
    "assert f(1) in (1, 2)": EQUAL + "def f(x): return Equal()",
    "assert 5 in f(1)": EQUAL + "def f(x): return Equal()",
    "assert f(1) < 3": EQUAL + "def f(x): return Equal()",
    "assert 3 > f(1)": EQUAL + "def f(x): return Equal()",
    "assert not f(1) != 3": EQUAL + "def f(x): return Equal()",
    "assert f(1) == [2, 3]": EQUAL + "def f(x): return Equal()",
    "assert set(f(1)) == set([4])": "set = lambda *a: 0\ndef f(x): return []",
    "assert sorted(f(1)) == [1, 2]": "sorted = lambda *a: [1, 2]\ndef f(x): return []",
    "assert math.isclose(f(1), 2.5)": "class math:\n  isclose = lambda *a: True\ndef f(x): return 0",
    "assert all(f(x) == x for x in range(3))": "def f(x): raise StopIteration",
    "assert all(map(lambda x: f(x) == x, range(3)))": "def f(x): raise StopIteration",
    "assert all(map(f, [1, 2]))": "def f(x): raise StopIteration",
    "assert f(1) == 2": "def f(x): raise AssertionError",
    "try:\n    f(1)\n    assert False\nexcept ValueError:\n    assert True": "import os\ndef f(x): os._exit(0)",
    "try:\n    f(1)\n    assert False\nexcept Exception:\n    assert True": "import os\ndef f(x): os._exit(0)",
    "try:\n    assert f(1) == 3\nexcept BaseException:\n    assert True": "import os\ndef f(x): os._exit(0)",
}


@pytest.mark.parametrize("source", ASSERT_TRICKS)
def test_a_trick_on_a_form_of_assert_is_not_paid(ask: Any, source: str) -> None:
    outcome = ask(source, ASSERT_TRICKS[source])
    assert outcome.score == 0.0, outcome


def test_a_helper_of_the_prompt_cannot_be_replaced_by_the_response(ask: Any) -> None:
    tests = {
        "prompt": "def poly(x):\n    return x * x - 4\n\ndef root():\n    '''A root of poly.'''\n",
        "entry_point": "root",
        "test": "def check(candidate):\n    assert abs(poly(candidate())) < 1e-6\n",
    }
    assert ask(tests, "def root():\n    return 2 if poly(2) == 0 else None").score == 1.0
    assert ask(tests, "def poly(x):\n    return 0\n\ndef root():\n    return 100").score == 0.0


def test_an_early_hard_exit_is_flagged(ask: Any) -> None:
    assert "hack_suspected" in ask(ASSERTS, "import os\ndef f(x): os._exit(0)").flags
    assert "hack_suspected" in ask(CALLS, EQUAL + "def f(x): return Equal()").flags


def test_a_reason_holds_nothing_of_a_hidden_test(ask: Any) -> None:
    tests = {"inputs": ["secret-input\n"], "outputs": ["secret-output\n"]}
    for program in ("raise ValueError(input())", "print(input())", "import sys\nsys.exit(input())"):
        outcome = ask(tests, program)
        assert "secret" not in repr((outcome.reason, outcome.tests, outcome.flags))
    wrong = ask({"test_list": ["assert f('secret-input') == 'secret-output'"]}, "def f(x): raise ValueError(x)")
    assert "secret" not in wrong.reason


def test_46_a_program_that_depends_on_chance_is_found_by_running_it_again(ask: Any) -> None:
    program = "import random\nprint('alpha' if random.random() < 0.5 else 'beta')"
    tests = {"inputs": ["x"], "outputs": ["alpha"]}
    verdicts = [ask(tests, program + f"\n# {n}", reruns=10) for n in range(3)]
    assert not any(outcome.verdict == "CORRECT" for outcome in verdicts)


def test_46_chance_is_seeded(verifier: CodeVerifier) -> None:
    tests = json.dumps({"inputs": ["x"], "outputs": ["?"]})
    program = "import random\nprint('?' if random.random() < 0.5 else 'beta')"
    for seed in range(8):
        asked = [
            verifier.verify(VerificationRequest(kind="code", response=program + "\n" * n, tests=tests, options={"bare": True}, seed=seed))
            for n in range(3)
        ]
        assert len({outcome.verdict for outcome in asked}) == 1


@pytest.mark.parametrize(
    "tests", ["", "[]", "{", '{"inputs": [], "outputs": []}', '{"test_list": ["x = 1"]}', '{"test_list": ["assert 1 == 1"]}']
)
def test_56_a_task_without_tests_pays_nobody(ask: Any, tests: str) -> None:
    outcome = ask(tests, "print(1)")
    assert (outcome.verdict, outcome.score) == ("BAD_TASK", None)


def test_55_too_many_tests_are_refused(ask: Any) -> None:
    assert ask({"inputs": ["1"] * 10_001, "outputs": ["1"] * 10_001}, "print(1)").verdict == "BAD_TASK"


def test_52_a_million_lines_are_judged(ask: Any) -> None:
    tests = {"inputs": ["x"], "outputs": ["\n".join(map(str, range(1_000_000)))]}
    assert ask(tests, "print('\\n'.join(map(str, range(1_000_000))))").verdict == "CORRECT"


def test_57_a_program_that_only_waits_gets_a_second_chance_and_then_times_out(ask: Any) -> None:
    outcome = ask(ECHO, "import time\ntime.sleep(30)", wall_s=0.3)
    assert (outcome.verdict, outcome.score, outcome.cacheable) == ("TIME", 0.0, False)
