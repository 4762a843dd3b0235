"""Read the tests of a code task, in any of the encodings that public data sets use.

The shape decides, never the name of a data set. What is malformed or empty is a BadTaskError that names the field.
"""

import json
from collections.abc import Callable
from typing import Any

from oprime_verifier.code.assert_formats import assert_suite, looks_like_tests
from oprime_verifier.code.case_formats import Row, case_suite, in_out_suite, listed, program, program_case, program_suite
from oprime_verifier.code.pickled import private_tests
from oprime_verifier.code.prompts import runnable
from oprime_verifier.code.suite import BadTaskError, CallCase, Kind, ProgramCase, TestSuite

MAX_CHARS = 100_000_000
MAX_TESTS = 10_000


def parse_tests(text: str) -> TestSuite:
    """Raises BadTaskError."""
    if not text.strip():
        raise BadTaskError("tests are missing: the task needs tests, or one gold that holds them")
    if len(text) > MAX_CHARS:
        raise BadTaskError(f"tests have {len(text)} characters; at most {MAX_CHARS} are read")
    try:
        suite = _read(_decoded(text), {})
    except RecursionError as error:
        raise BadTaskError("tests are nested too deeply") from error
    if suite.count == 0:
        raise BadTaskError("tests are empty: a task without a test would pay for anything")
    if suite.count > MAX_TESTS:
        raise BadTaskError(f"tests: {suite.count} of them; at most {MAX_TESTS} are run")
    return suite


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if looks_like_tests(text):
            return {"functional": text}
        raise BadTaskError(f"tests are neither JSON ({error}) nor Python test source") from error


def _read(value: Any, row: Row) -> TestSuite:
    """`row` is what stands around the value, in rows of data sets."""
    if isinstance(value, str):
        return _read(_decoded(value), row)
    if isinstance(value, list):
        return _read_list(value, row)
    if not isinstance(value, dict):
        raise BadTaskError(f"tests are a {type(value).__name__}; they must be an object, a list or test source")
    around = {**row, **value}
    for keys, reader in _READERS:
        if all(value.get(key) not in (None, "", [], {}) for key in keys):
            return reader(value, around)
    empty = sorted(key for key in _KNOWN if key in value)
    if empty:
        raise BadTaskError(f"tests.{empty[0]} is empty")
    raise BadTaskError(f"tests have the fields {sorted(map(str, value))[:8]}, which no known encoding has")


def _read_list(values: list[Any], row: Row) -> TestSuite:
    if not values:
        raise BadTaskError("tests are an empty list")
    if all(isinstance(value, str) for value in values):
        return assert_suite("\n".join(values), row, field="tests")
    if not all(isinstance(value, dict) for value in values):
        raise BadTaskError("tests are a list that is neither all assert statements nor all objects")
    return case_suite(values, "tests", row)


def _live_code_bench(value: Row, row: Row) -> TestSuite:
    """`public_test_cases` and `private_test_cases`."""
    public = _maybe_json(value.get("public_test_cases"), "tests.public_test_cases")
    private = private_tests(value.get("private_test_cases"), MAX_CHARS)
    return case_suite([*public, *private], "tests", row)


def _maybe_json(value: Any, field: str) -> list[Any]:
    return [] if value in (None, "", []) else listed(value, field)


def _code_contests(value: Row, row: Row) -> TestSuite:
    """`public_tests`, `private_tests` and `generated_tests`, each with lists of inputs and of outputs."""
    cases: list[ProgramCase] = []
    for field in ("public_tests", "private_tests", "generated_tests"):
        part = value.get(field) or {}
        if isinstance(part, list):
            cases += [program_case(case, f"tests.{field}[{n}]") for n, case in enumerate(part)]
            continue
        given, expected = part.get("input", []), part.get("output", [])
        if len(given) != len(expected):
            raise BadTaskError(f"tests.{field} has {len(given)} inputs and {len(expected)} outputs; they must be as many")
        cases += [program(i, o, f"tests.{field}.input[{n}]") for n, (i, o) in enumerate(zip(given, expected, strict=True))]
    return program_suite(cases, row)


def _eval_plus(value: Row, row: Row) -> TestSuite:
    """`base_input` and `plus_input`; the canonical solution says what is expected."""
    inputs = [*_maybe_json(value.get("base_input"), "tests.base_input"), *_maybe_json(value.get("plus_input"), "tests.plus_input")]
    for field in ("entry_point", "canonical_solution"):
        if not value.get(field):
            raise BadTaskError(f"tests.{field} is missing: EvalPlus inputs have no outputs, only a canonical solution")
    prompt = str(value.get("prompt") or "")
    tolerance = value.get("atol") or None
    if not all(isinstance(given, list) for given in inputs):
        raise BadTaskError("tests.base_input must be a list of argument lists")
    return TestSuite(
        kind=Kind.CALL,
        calls=tuple(CallCase(arguments=tuple(given), keywords={}, expected=None, size=len(repr(given))) for given in inputs),
        entry_point=str(value["entry_point"]),
        prompt=prompt,
        preamble=runnable(prompt),
        reference=prompt + str(value["canonical_solution"]),
        abs_tolerance=float(tolerance) if tolerance else None,
    )


def _inner(key: str) -> Callable[[Row, Row], TestSuite]:
    """The tests are in a field of the row."""

    def read(value: Row, row: Row) -> TestSuite:
        return _read(value[key], {name: part for name, part in row.items() if name != key})

    return read


def _mbpp(value: Row, row: Row) -> TestSuite:
    parts: list[str] = []
    for field in ("test_imports", "test_setup_code", "test_list", "challenge_test_list"):
        part = value.get(field) or []
        lines = [part] if isinstance(part, str) else part
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise BadTaskError(f"tests.{field} must be a list of source lines")
        parts += lines
    return assert_suite("\n".join(parts), row, field="tests.test_list")


def _asserts_in(key: str) -> Callable[[Row, Row], TestSuite]:
    def read(value: Row, row: Row) -> TestSuite:
        source = value[key]
        if isinstance(source, list) and all(isinstance(part, dict) for part in source):
            return case_suite(source, f"tests.{key}", row)
        if isinstance(source, list):
            source = "\n".join(map(str, source))
        if not isinstance(source, str):
            raise BadTaskError(f"tests.{key} is a {type(source).__name__}, not test source")
        return assert_suite(source, row, field=f"tests.{key}")

    return read


def _cases_in(key: str) -> Callable[[Row, Row], TestSuite]:
    return lambda value, row: case_suite(listed(value[key], f"tests.{key}"), f"tests.{key}", row)


_READERS: tuple[tuple[tuple[str, ...], Callable[[Row, Row], TestSuite]], ...] = (
    (("reward_model",), _inner("reward_model")),
    (("ground_truth",), _inner("ground_truth")),
    (("verification_info",), _inner("verification_info")),
    (("info",), _inner("info")),
    (("input_output",), _inner("input_output")),
    (("inputs", "outputs"), in_out_suite),
    (("public_test_cases",), _live_code_bench),
    (("private_test_cases",), _live_code_bench),
    (("base_input",), _eval_plus),
    (("plus_input",), _eval_plus),
    (("test_list",), _mbpp),
    (("assert_case",), _asserts_in("assert_case")),
    (("functional",), _asserts_in("functional")),
    (("pytest",), _asserts_in("pytest")),
    (("official_tests",), _cases_in("official_tests")),
    (("public_tests",), _code_contests),
    (("private_tests",), _code_contests),
    (("generated_tests",), _code_contests),
    (("test_cases",), _cases_in("test_cases")),
    (("cases",), _cases_in("cases")),
    (("tests",), _inner("tests")),
    (("test",), _asserts_in("test")),
)
"""The first whose fields are all there and not empty."""
_KNOWN = {key for keys, _ in _READERS for key in keys}
