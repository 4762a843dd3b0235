"""Which part of a test source goes to the solution's interpreter, and which stays outside."""

import pytest

from oprime_verifier.code.assert_plan import TestPlan, plan_tests
from oprime_verifier.sandbox.inside.check_variants import comparison

F = frozenset({"f"})


def plan(source: str, names: frozenset[str] = F, preamble: str = "") -> TestPlan:
    return plan_tests(source, preamble, names)


def inside(planned: TestPlan) -> str:
    return "\n".join(unit.source for unit in planned.units)


@pytest.mark.parametrize(
    ("source", "upper"),
    [
        ("assert f(1) == 42", "lambda _oprime_0: _oprime_0 == 42"),
        ("assert 42 == f(1)", "lambda _oprime_0: 42 == _oprime_0"),
        ("assert abs(f(1) - 4.2) < 1e-6", "lambda _oprime_0: abs(_oprime_0 - 4.2) < 1e-06"),
        ("assert not f(1) != 42", "lambda _oprime_0: not _oprime_0 != 42"),
        ("assert f(1) is None", "lambda _oprime_0: _oprime_0 is None"),
        ("assert sorted(f(1)) == sorted([4, 2])", "lambda _oprime_0: _oprime_0 == sorted([4, 2])"),
        ("assert [f(1), f(2)] == [4, 2]", "lambda _oprime_0, _oprime_1: [_oprime_0, _oprime_1] == [4, 2]"),
        ("wanted = [4, 2]\nassert f(1) == wanted", "lambda _oprime_0: _oprime_0 == [4, 2]"),
        ("def brute(n):\n    return n * n\nassert f(1) == brute(6)", "lambda _oprime_0: _oprime_0 == brute(6)"),
        ("import math\nassert math.isclose(f(1), math.sqrt(42))", "lambda _oprime_0: math.isclose(_oprime_0, math.sqrt(42))"),
        ("import pytest\nassert f(1) == pytest.approx(42)", "lambda _oprime_0: _oprime_0 == pytest.approx(42)"),
        ("class T:\n    def test(self):\n        self.assertEqual(f(1), 42)\nassert T", "lambda _oprime_0: _oprime_0 == 42"),
    ],
)
def test_what_an_assert_expects_stays_outside(source: str, upper: str) -> None:
    planned = plan(source)
    assert planned.checks[0].upper == upper
    assert not planned.checks[0].is_inside
    assert "42" not in inside(planned)
    assert "4, 2" not in inside(planned)


@pytest.mark.parametrize(
    "source",
    [
        "a = [1]\nb = f(a)\nassert a == [1]",
        "wanted = [1]\nf(wanted)\nassert f(2) == wanted",
        "wanted = [1]\nwanted.append(2)\nassert f(2) == wanted",
        "for x, wanted in [(1, 2)]:\n    assert f(x, wanted) == wanted",
        "for x, wanted in rows():\n    assert f(x) == wanted",
        "for x, wanted in [(1, 2), (3, 4)]:\n    assert f(x)\nassert f(7) == wanted",
        "for x, wanted in [(1, 2)]:\n    if x == 1:\n        break\n    assert f(x) == wanted",
    ],
)
def test_a_name_that_is_used_elsewhere_keeps_its_value_in_the_interpreter(source: str) -> None:
    # Its object may be changed there, so an equal one outside would be another.
    planned = plan(source)
    assert "_oprime_" in planned.checks[-1].upper
    assert "wanted" not in planned.checks[-1].upper
    assert "wanted =" in inside(planned) or "a = [1]" in inside(planned) or "for x, wanted" in inside(planned)


@pytest.mark.parametrize(
    "source",
    [
        "for x, wanted in [(1, 42), (2, 43)]:\n    assert f(x) == wanted",
        "def test_f():\n    for x, wanted in ((1, 42), (2, 43)):\n        y = f(x)\n        assert y == wanted\n",
        "import pytest\n@pytest.mark.parametrize('x, wanted', [(1, 42), (2, 43)])\ndef test_f(wanted, x):\n    assert f(x) == wanted\n",
        "import pytest\nclass TestF:\n    @pytest.mark.parametrize('x, wanted', [(1, 42), (2, 43)])\n"
        "    def test_f(self, x, wanted):\n        assert f(x) == wanted\n",
        "def check(candidate):\n    for x, wanted in [(1, 42), (2, 43)]:\n        assert candidate(x) == wanted\n",
    ],
)
def test_what_rows_expect_stays_outside_where_the_test_spells_them_out(source: str) -> None:
    planned = plan(source)
    assert [check.upper for check in planned.checks] == ["lambda _oprime_0: _oprime_0 == 42", "lambda _oprime_0: _oprime_0 == 43"]
    assert "wanted" not in inside(planned)
    assert planned.units[-1].must == (0, 1)


def test_parameters_beside_a_fixture_are_left_to_pytest() -> None:
    source = "import pytest\n@pytest.mark.parametrize('x, y', [(1, 42)])\ndef test_f(x, y, capsys):\n    assert f(x) == y\n"
    assert "parametrize" in inside(plan(source))


@pytest.mark.parametrize(
    ("source", "is_inside"),
    [
        ("assert f(1) is f(1)", True),
        ("assert isinstance(f(1), dict)", False),
        ("assert all(f(x) == x for x in range(3))", True),
        ("for x, y in rows():\n    assert f(x) == y", True),
        ("assert f(1) == f(2)", False),
        ("assert f(3)", False),
    ],
)
def test_what_is_decided_in_the_interpreter_is_known(source: str, is_inside: bool) -> None:
    assert any(check.is_inside for check in plan(source).checks) == is_inside


def test_an_assert_of_several_parts_is_checked_part_by_part_in_its_order() -> None:
    planned = plan("assert f(1) == 1 and f(2) == 4, 'message'\nassert f(3) == 9 or f(4) == 16")
    assert [check.upper for check in planned.checks[:2]] == ["lambda _oprime_0: _oprime_0 == 1", "lambda _oprime_0: _oprime_0 == 4"]
    assert planned.units[0].must == (0, 1)
    # The second part runs only where the first does not hold.
    assert " or " in inside(planned)
    assert "message" not in inside(planned)


def test_only_what_stands_on_every_way_must_come() -> None:
    source = "def test_a():\n    assert f(1) == 1\n    for x in range(3):\n        assert f(x) == x\n"
    source += "    if f(2):\n        return\n    assert f(3) == 3\n"
    unit = plan(source).units[-1]
    assert (unit.how, unit.name, unit.is_test, unit.must) == ("function", "test_a", True, (0,))


def test_neighbours_that_neither_test_nor_call_run_together() -> None:
    planned = plan("import math\nimport re\nx = 1\ny = f(x)\nassert y == 1")
    assert [unit.calls_solution for unit in planned.units] == [False, True, False]
    assert [unit.is_test for unit in planned.units] == [False, False, True]


def test_tests_that_never_call_the_solution_are_known() -> None:
    assert not plan("g = len\nassert g([]) == 0").calls_solution
    assert plan("import solution\nassert solution.f(1) == 2", frozenset()).calls_solution


def test_classes_of_the_task_exist_on_both_sides() -> None:
    node = "class Node:\n    def __init__(self, value):\n        self.value = value\n"
    assert plan(f"{node}assert f(Node(1)).value == 1").classes == ("Node",)
    assert plan("assert f(Node(1)) == 1", preamble=node).classes == ("Node",)
    assert plan(f"{node}    def call(self):\n        return f(1)\nassert Node(1).call() == 1").classes == ()


@pytest.mark.parametrize(
    ("upper", "data", "others", "is_equality"),
    [
        ("lambda a: a == 5", {}, ["a == 6", "a == 1000000005", "a == -999999995"], True),
        ("lambda a: not a != 5", {}, ["not a != 6", "not a != 1000000005", "not a != -999999995"], True),
        ("lambda a: a < 5", {}, ["a < 6", "a < 1000000005", "a < -999999995"], False),
        ("lambda a: a == 'x'", {}, ["a == 'x~'", "a == '\\U0010ffff'", "a == ''"], True),
        ("lambda a: a == []", {}, ["a == [1]", "a == [1000000000]", "a == [-1000000000]"], True),
        ("lambda a: a != 5", {}, [], False),
        ("lambda a: 5 not in a", {}, [], False),
        ("lambda a, b: a == b", {1: [7]}, ["(lambda a, b: a == b)(a, [8])"], True),
    ],
)
def test_an_object_is_compared_with_other_values_too(upper: str, data: dict[int, object], others: list[str], is_equality: bool) -> None:
    found = comparison(upper, data)
    assert [other.partition(": ")[2] for other in found.others][: len(others)] == others
    assert len(found.others) in (len(others), 3)
    assert found.is_equality == is_equality
