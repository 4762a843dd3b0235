# ruff: noqa: E501 - a program or a row in one line reads better than one cut in pieces
import base64
import json
import os
import pickle
import zlib
from typing import Any

import pytest

from oprime_verifier.code.formats import parse_tests
from oprime_verifier.code.suite import BadTaskError, Kind, TestSuite


def read(value: Any) -> TestSuite:
    return parse_tests(value if isinstance(value, str) else json.dumps(value))


def programs(suite: TestSuite) -> list[tuple[bytes, bytes]]:
    assert suite.kind is Kind.PROGRAM
    return [(case.stdin, case.expected) for case in suite.programs]


def calls(suite: TestSuite) -> list[tuple[list[Any], Any]]:
    assert suite.kind is Kind.CALL
    return [(list(case.arguments), case.expected) for case in suite.calls]


IN_OUT = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", "7"]}
PROGRAMS = [(b"1 2\n", b"3\n"), (b"3\n4", b"7")]
LCB = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}, {"input": "3\n4", "output": "7", "testtype": "stdin"}]
PLAIN = [{"input": "1 2\n", "output": "3\n"}, {"input": "3\n4", "output": "7"}]


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


@pytest.mark.parametrize(
    "value",
    [
        IN_OUT,
        json.dumps(json.dumps(IN_OUT)),
        {"inputs": json.dumps(IN_OUT["inputs"]), "outputs": json.dumps(IN_OUT["outputs"])},
        {"input_output": json.dumps(IN_OUT), "starter_code": "", "difficulty": "easy"},
        {"data_source": "taco", "reward_model": {"ground_truth": json.dumps(IN_OUT), "style": "rule"}, "prompt": [{"role": "user", "content": "Add."}]},
        {"info": json.dumps({"tests": json.dumps(IN_OUT)}), "prompt": "Add."},
        {"verification_info": {"language": "python", "test_cases": [{"type": "stdin_stdout", **case} for case in PLAIN]}},
        {"public_test_cases": json.dumps(LCB[:1]), "private_test_cases": json.dumps(LCB[1:])},
        {"public_test_cases": json.dumps(LCB[:1]), "private_test_cases": packed(json.dumps(LCB[1:])), "metadata": "{}"},
        {"public_tests": {"input": ["1 2\n"], "output": ["3\n"]}, "private_tests": {"input": [], "output": []}, "generated_tests": {"input": ["3\n4"], "output": ["7"]}},
        {"official_tests": PLAIN, "input_mode": "stdio", "generated_checker": None},
        {"id": 1, "content": "Add.", "test": [{"input": {"stdin": "1 2\n"}, "output": {"stdout": "3\n"}}, {"input": {"stdin": "3\n4"}, "output": {"stdout": "7"}}]},
        {"tests": PLAIN, "max_execution_time": 3},
        PLAIN,
        [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "3\n4", "expected": "7"}],
    ],
)  # fmt: skip
def test_every_encoding_of_programs_is_read(value: Any) -> None:
    assert programs(read(value)) == PROGRAMS


FUNCTIONS = [([[1, 2], "x"], [3]), ([[4], "y"], [5])]


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": ['[1, 2]\n"x"', '[4]\n"y"'], "outputs": ["[3]", "[5]"], "fn_name": "f"},
        {"inputs": [[[1, 2], "x"], [[4], "y"]], "outputs": [[3], [5]], "fn_name": "f"},
        {"input_output": json.dumps({"inputs": ['[1, 2]\n"x"', '[4]\n"y"'], "outputs": ["[3]", "[5]"], "fn_name": "f"})},
        {"public_test_cases": [{"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional"}],
         "private_test_cases": packed(json.dumps([{"input": '[4]\n"y"', "output": "[5]", "testtype": "functional"}])), "metadata": '{"func_name": "f"}'},
        [{"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional", "metadata": {"func_name": "f"}},
         {"input": '[4]\n"y"', "output": "[5]", "testtype": "functional", "metadata": {"func_name": "f"}}],
        [{"fn_name": "f", "input": [[1, 2], "x"], "output": [3]}, {"fn_name": "f", "input": [[4], "y"], "output": [5]}],
        {"tests": json.dumps([{"fn_name": "f", "input": [[1, 2], "x"], "output": [3]}, {"fn_name": "f", "input": [[4], "y"], "output": [5]}])},
        {"fn_name": "f", "cases": [{"args": [[1, 2], "x"], "expected": [3]}, {"args": [[4], "y"], "expected": [5]}]},
    ],
)  # fmt: skip
def test_every_encoding_of_functions_is_read(value: Any) -> None:
    suite = read(value)
    assert calls(suite) == FUNCTIONS
    assert suite.entry_point == "f"


def test_expected_values_may_be_wrapped_only_where_all_of_them_could_be() -> None:
    assert read({"inputs": ["1", "2"], "outputs": ["[3]", "[5]"], "fn_name": "f"}).may_be_wrapped
    assert not read({"inputs": ["1", "2"], "outputs": ["[3]", "[5, 6]"], "fn_name": "f"}).may_be_wrapped
    assert not read({"fn_name": "f", "cases": [{"args": [1], "expected": [3]}]}).may_be_wrapped


def test_keywords_are_read() -> None:
    (case,) = read({"fn_name": "f", "cases": [{"kwargs": {"x": 1}, "expected": None}]}).calls
    assert (case.keywords, case.expected) == ({"x": 1}, None)


@pytest.mark.parametrize(
    ("value", "names", "tests"),
    [
        ({"test_list": ["assert f(1) == 2", "assert f(2) == 3"], "test_imports": ["import math"]}, ("f",), 2),
        ({"test_list": ["assert f(1) == a"], "test_setup_code": "a = 2", "challenge_test_list": ["assert f(2) == 3"]}, ("f",), 2),
        ({"test_list": ["assert sum(10, 15) == 6"]}, ("sum",), 1),
        ({"test_list": ["assert set(f([1])) == set([1])"]}, ("f",), 1),
        ({"test_list": ["assert size((1,)) == sys.getsizeof((1,))"]}, ("size",), 1),
        (["assert f(1) == 2", "assert f(2) == 3"], ("f",), 2),
        ({"inputs": [], "outputs": [], "assert_case": ["assert f(1) == 2"]}, ("f",), 1),
        ({"functional": "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(Solution().f)"}, ("Solution",), 1),
        ({"pytest": "from solution import f, Box\n\ndef test_a():\n    assert f(1) == 2\n\ndef test_b():\n    assert Box(1).x == 1"}, ("Box", "f"), 2),
        ("my_solution = Solution()\n\ntest_input = {'a': 1}\nassert my_solution.f(**test_input) == 2", ("Solution",), 1),
        ({"prompt": "def f(x):\n    '''Add one.'''\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 2\n"}, ("f",), 1),
        ({"prompt": "def g(x):\n    return x\n\ndef f(x):\n    '''As g.'''\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == g(1)\n"},
         ("f",), 1),
        ({"test": "class TestF(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)"}, ("f",), 1),
    ],
)  # fmt: skip
def test_every_encoding_of_test_source_is_read(value: Any, names: tuple[str, ...], tests: int) -> None:
    suite = read(value)
    assert suite.kind is Kind.ASSERTS
    assert suite.asserts is not None
    assert (suite.asserts.names, suite.asserts.tests) == (names, tests)


def test_inputs_of_evalplus_take_their_results_from_the_canonical_solution() -> None:
    suite = read(
        {
            "prompt": "def f(x):\n",
            "entry_point": "f",
            "canonical_solution": "    return x + 1\n",
            "base_input": [[1]],
            "plus_input": [[2]],
            "atol": 0.001,
        }
    )
    assert (suite.reference, suite.abs_tolerance) == ("def f(x):\n    return x + 1\n", 0.001)
    assert [case.arguments for case in suite.calls] == [(1,), (2,)]


@pytest.mark.parametrize(
    ("limits", "seconds", "size"),
    [
        ({"time_limit": 2, "memory_limit": 256}, 2.0, 256 << 20),
        ({"time_limit": "2.5 seconds", "memory_limit": "512 megabytes"}, 2.5, 512 << 20),
        ({"time_limit": {"seconds": 1, "nanos": 500_000_000}, "memory_limit_bytes": 1000}, 1.5, 1000),
        ({"time_limit": "1500 ms"}, 1.5, None),
        ({}, None, None),
        ({"time_limit": None, "memory_limit": None}, None, None),
    ],
)
def test_limits_of_the_task_are_read(limits: dict[str, Any], seconds: float | None, size: int | None) -> None:
    suite = read({**IN_OUT, **limits})
    assert (suite.cpu_s, suite.memory_bytes) == (seconds, size)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", "missing"),
        ("   ", "missing"),
        ("{", "JSON"),
        ("null", "NoneType"),
        ("42", "int"),
        ("The answer is 4.", "JSON"),
        ("def f(x):\n    return x", "JSON"),
        ([], "empty"),
        ({}, "fields"),
        ({"inputs": [], "outputs": []}, "inputs"),
        ({"inputs": ["1"], "outputs": []}, "outputs|inputs"),
        ({"inputs": ["1", "2"], "outputs": ["1"]}, "as many"),
        ({"inputs": [None], "outputs": ["1"]}, r"inputs\[0\]"),
        ({"inputs": ["1"], "outputs": [None]}, r"outputs\[0\]"),
        ({"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}, r"inputs\[0\]"),
        ({"inputs": "x", "outputs": ["1"]}, "inputs"),
        ({"test_list": []}, "test_list"),
        ({"test_list": ["f(1)"]}, "assert"),
        ({"test_list": ["assert f(1) =="]}, "Python"),
        ({"test_list": [1]}, "test_list"),
        ({"test": "x = 1", "entry_point": "f"}, "assert"),
        ({"official_tests": [{"input": "1"}]}, "output"),
        ({"official_tests": ["x"]}, "test"),
        ({"official_tests": [{"input": "1", "output": "2"}], "input_mode": "file"}, "input_mode"),
        ({"public_tests": {"input": ["1"], "output": ["2"]}, "input_file": "in.txt"}, "input_file"),
        ({"test": [{"input": {"a.txt": "1"}, "output": {"stdout": "2"}}]}, r"a\.txt"),
        ({"private_test_cases": "!!!"}, "private_test_cases"),
        ({"private_test_cases": base64.b64encode(b"x").decode()}, "private_test_cases"),
        ({"private_test_cases": packed([1])}, "private_test_cases"),
        ({**IN_OUT, "time_limit": -1}, "time_limit"),
        ({**IN_OUT, "memory_limit": "much"}, "memory_limit"),
        ([{"input": "1", "output": "2"}, {"input": "1", "output": "2", "testtype": "functional"}], "mixes"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "function"),
        ({"inputs": ["1"] * 10_001, "outputs": ["1"] * 10_001}, "10000"),
        ([1, 2], "assert"),
        ("[" * 100_000, "JSON|deep"),
    ],
)
def test_tests_that_cannot_be_used_are_refused_by_name(value: Any, named: str) -> None:
    with pytest.raises(BadTaskError, match=named):
        read(value)


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_pickle_that_calls_something_is_refused() -> None:
    with pytest.raises(BadTaskError, match="mkdir"):
        read({"private_test_cases": packed(Payload())})


def test_a_bomb_of_zeros_is_refused() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(200_000_000), 9)).decode()
    with pytest.raises(BadTaskError, match="unpacked"):
        read({"private_test_cases": bomb})


def test_tests_of_more_than_100_mb_are_refused() -> None:
    with pytest.raises(BadTaskError, match="100000000"):
        read(" " * 100_000_000 + "[]")


def test_old_test_sources_with_odd_escapes_are_read_in_silence() -> None:
    assert read({"test_list": [r"assert f('\w') == 1"]}).count == 1
