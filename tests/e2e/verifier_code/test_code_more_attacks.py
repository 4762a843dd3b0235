# ruff: noqa: E501 - a program in one line reads better than one cut in pieces
"""Attacks on the wall between solution and tests: forged messages, hostile objects, values made to hurt their reader."""

from typing import Any

import pytest

WRITE = "import os, struct, json\ndef say(m):\n    b = json.dumps(m).encode()\n    os.write(3, struct.pack('>I', len(b)) + b)\n"
CALLS = {"fn_name": "f", "cases": [{"args": [n], "expected": [n, n + 1]} for n in range(3)]}
ASSERTS = {"test_list": [f"assert f({n}) == [{n}, {n + 1}]" for n in range(3)]}

ATTACKS = {
    "claims to hold an object": WRITE + "def f(x): say({'value': {'roots': [[0]], 'nodes': [['handle', 1, 'list']]}})",
    "claims a million objects": WRITE + "def f(x): say({'value': {'roots': [[0]], 'nodes': [['handle', n, 'list'] for n in range(10**5)]}})",
    "calls back what was never passed": WRITE + "def f(x):\n    for n in range(5): say({'callback': n, 'args': {'roots': [], 'nodes': []}})",
    "calls back without arguments": WRITE + "def f(x): say({'callback': 1})",
    "an error of an odd class": WRITE + "def f(x): say({'phase': 'call', 'error': {'type': 'a\\0b', 'bases': ['print', 5], 'message': 7}})",
    "an error without a form": WRITE + "def f(x): say({'phase': 'call', 'error': 5})",
    "an error of no exception": WRITE + "def f(x): say({'error': {'type': 'print', 'bases': [], 'message': ''}})",
    "an error that ends generators": WRITE + "def f(x): say({'error': {'type': 'StopIteration', 'bases': ['StopIteration'], 'message': '', 'iterating': True}})",
    "an ending of its own": WRITE + "def f(x): say({'ended': 'CORRECT'})",
    "a finished test": WRITE + "def f(x): say({'op': 'test', 'index': 0, 'is_test': True, 'failure': None})",
    "mutations that were none": WRITE + "def f(x): say({'value': {'roots': [None], 'nodes': []}, 'mutated': {'roots': [[0]], 'nodes': [['list']]}})",
    "tables that are none": WRITE + "def f(x): say({'value': [1, 2]})",
    "a root without a table": WRITE + "def f(x): say({'value': {'roots': [[7]], 'nodes': []}})",
    "a circle of references": WRITE + "def f(x): say({'value': {'roots': [[0]], 'nodes': [['scalar', [1]], ['scalar', [0]]]}})",
    "the built-in that is always true": "def f(x): return bool",
    "a function": "def f(x): return f",
    "its class": "class A: pass\ndef f(x): return A",
    "a module": "import sys\ndef f(x): return sys",
    "a class that lies about its class": "class A:\n    @property\n    def __class__(self): return list\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x): return A()",
    "a metaclass that lies": "class M(type):\n    def __eq__(cls, o): return True\n    def __hash__(cls): return hash(list)\n    def __instancecheck__(cls, o): return True\nclass A(metaclass=M):\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x): return A()",
    "a class named like a built-in one": "class list(list):\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x): return list([9])",
    "attributes that raise": "class A:\n    def __getattribute__(self, n): raise SystemExit(0)\ndef f(x): return A()",
    "a dictionary of its own": "class A(dict):\n    def items(self): return [(0, 1)]\n    def __len__(self): return 2\ndef f(x): return A()",
    "text that changes when looked at": "class A(str):\n    def __str__(self): return '[0, 1]'\n    __repr__ = __str__\ndef f(x): return A('no')",
    "an endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "an endless map": "import itertools\ndef f(x): return map(str, itertools.count())",
    "colliding keys": "def f(x): return {n * (2**61 - 1) for n in range(20000)}",
    "a deep tuple": "def f(x):\n    t = ()\n    for _ in range(100000): t = (t,)\n    return t",
    "a deep list": "def f(x):\n    t = []\n    for _ in range(100000): t = [t]\n    return t",
    "a list that contains itself": "def f(x):\n    t = [x]\n    t.append(t)\n    return t",
    "lone surrogates": "def f(x): return '\\ud800' * 1000",
    "a very large number": "def f(x): return 7 ** 200000",
    "closes the channel": "import os\ndef f(x):\n    os.close(3)\n    return [x, x + 1]",
    "reads the channel": "import os\ndef f(x):\n    os.set_blocking(3, False)\n    try: return eval(os.read(3, 10**6))\n    except BlockingIOError: return None",
    "a thread that goes on": "import threading, time\ndef f(x):\n    threading.Thread(target=time.sleep, args=(100,)).start()\n    return None",
    "replaces the codec": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'encode') and hasattr(m, 'Decoder'):\n        m.encode = lambda *a, **k: {'roots': [True], 'nodes': []}\ndef f(x): return None",
    "a name of the tests": "nonce = names = candidate = check = None\ndef f(x): return globals().get('nonce')",
    "an exception with a hostile text": "class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef f(x): raise E",
    "an exit in the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return None",
}  # fmt: skip


@pytest.mark.parametrize("tests", [CALLS, ASSERTS], ids=["calls", "asserts"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_the_wall_gets_a_verdict_and_no_reward(ask: Any, name: str, tests: dict[str, Any]) -> None:
    outcome = ask(tests, ATTACKS[name], cpu_s=1.0, wall_s=3.0)
    assert outcome.verdict in ("INCORRECT", "RUNTIME", "TIME", "MEMORY", "OUTPUT", "VIOLATION"), outcome
    assert outcome.score == 0.0


def test_the_judge_is_alive_after_all_that(ask: Any) -> None:
    assert ask(CALLS, "def f(x): return [x, x + 1]").score == 1.0
    assert ask(ASSERTS, "def f(x): return [x, x + 1]").score == 1.0
