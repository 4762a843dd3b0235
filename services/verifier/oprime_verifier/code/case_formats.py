"""Lists of tests: inputs and outputs side by side, or objects with an input and an output each."""

import ast
import json
from collections.abc import Mapping
from typing import Any

from oprime_verifier.code.limits_text import bytes_of, seconds_of
from oprime_verifier.code.suite import BadTaskError, CallCase, Kind, ProgramCase, TestSuite

Row = Mapping[str, Any]


def in_out_suite(value: Row, row: Row) -> TestSuite:
    """`inputs`, `outputs` and perhaps `fn_name`: APPS, TACO, Eurus-2-RL-Data, PrimeIntellect, LiveCodeBench samples."""
    inputs, outputs = (listed(value[field], f"tests.{field}") for field in ("inputs", "outputs"))
    if len(inputs) != len(outputs):
        raise BadTaskError(f"tests.inputs has {len(inputs)} entries and tests.outputs {len(outputs)}; they must be as many")
    name = row.get("fn_name") or _function_name(row)
    pairs = list(zip(inputs, outputs, strict=True))
    if name:
        return _call_suite(str(name), [_call(i, o, f"tests.inputs[{n}]") for n, (i, o) in enumerate(pairs)], row, wraps=True)
    return program_suite([program(i, o, f"tests.inputs[{n}]") for n, (i, o) in enumerate(pairs)], row)


def listed(value: Any, field: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadTaskError(f"{field} is text that is not JSON: {error}") from error
    if not isinstance(value, list):
        raise BadTaskError(f"{field} is a {type(value).__name__}, not a list")
    if not value:
        raise BadTaskError(f"{field} is empty")
    return value


def program(stdin: Any, expected: Any, field: str, **details: Any) -> ProgramCase:
    return ProgramCase(stdin=_text(stdin, field), expected=_text(expected, field.replace("input", "output")), **details)


def _text(value: Any, field: str) -> bytes:
    """Text, or a list of lines."""
    if isinstance(value, list):
        value = "\n".join(part if isinstance(part, str) else json.dumps(part) for part in value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise BadTaskError(f"{field} is a {type(value).__name__}, not text or a list of lines")
    return value.encode("utf-8", "surrogatepass")


def _call(given: Any, expected: Any, field: str, **details: Any) -> CallCase:
    """Arguments as a list, as an object of keywords, or as lines of JSON; then the result is JSON text as well."""
    size = len(given) if isinstance(given, str) else len(repr(given))
    if isinstance(given, str):
        arguments: Any = [_value(line, field) for line in given.split("\n") if line.strip()]
        expected = _value(expected, field.replace("input", "output")) if isinstance(expected, str) else expected
    else:
        arguments = given
    keywords = arguments if isinstance(arguments, dict) else {}
    if not isinstance(arguments, list | dict):
        raise BadTaskError(f"{field} is a {type(arguments).__name__}, not a list of arguments, an object of them, or lines of JSON")
    return CallCase(arguments=() if keywords else tuple(arguments), keywords=keywords, expected=expected, size=size, **details)


def _value(text: str, field: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError):
            continue
    raise BadTaskError(f"{field} holds {text[:40]!r}, which is not JSON")


def case_suite(cases: list[Any], field: str, row: Row) -> TestSuite:
    """Objects with an input and an output each: LiveCodeBench, DeepCoder, open-r1/codeforces, SandboxFusion, open-instruct, ..."""
    functional = [_is_functional(case) for case in cases]
    if any(functional) and not all(functional):
        raise BadTaskError(f"{field} mixes programs and functions")
    if not any(functional):
        return program_suite([program_case(case, f"{field}[{n}]") for n, case in enumerate(cases)], row)
    names = {str(name) for case in cases if (name := _function_name(case) or _function_name(row))}
    if len(names) != 1:
        raise BadTaskError(f"{field} must name one function to call, got {sorted(names)}")
    calls = [_call_case(case, f"{field}[{n}]") for n, case in enumerate(cases)]
    return _call_suite(names.pop(), calls, row, wraps=any("testtype" not in case and "args" not in case for case in cases))


def _is_functional(case: Any) -> bool:
    if not isinstance(case, dict):
        raise BadTaskError(f"a test is a {type(case).__name__}, not an object")
    kind = str(case.get("testtype") or case.get("type") or "")
    return kind in ("functional", "function_call", "call") or bool(case.get("fn_name")) or "args" in case or "kwargs" in case


def _function_name(row: Row) -> str:
    """From the places where data sets put it."""
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            metadata = None
    if isinstance(metadata, dict) and metadata.get("func_name"):
        return str(metadata["func_name"])
    return str(row.get("fn_name") or row.get("func_name") or "")


_INPUTS = ("input", "stdin", "inputs")
_OUTPUTS = ("output", "stdout", "expected", "expected_output", "outputs")


def program_case(case: Row, field: str) -> ProgramCase:
    given, expected = _first(case, _INPUTS, field, default=""), _first(case, _OUTPUTS, field)
    return program(_stream(given, "stdin", field), _stream(expected, "stdout", field), f"{field}.input", **_weight(case, field))


def _call_case(case: Row, field: str) -> CallCase:
    if "args" in case or "kwargs" in case:
        arguments, keywords = case.get("args", []), case.get("kwargs", {})
        if not isinstance(arguments, list) or not isinstance(keywords, dict):
            raise BadTaskError(f"{field}.args must be a list and {field}.kwargs an object")
        expected = _first(case, _OUTPUTS, field)
        return CallCase(arguments=tuple(arguments), keywords=keywords, expected=expected, size=len(repr(arguments)), **_weight(case, field))
    return _call(_first(case, _INPUTS, field), _first(case, _OUTPUTS, field), f"{field}.input", **_weight(case, field))


def _first(case: Row, names: tuple[str, ...], field: str, **default: Any) -> Any:
    for name in names:
        if case.get(name) is not None or (name in case and name == "expected"):
            return case[name]
    if "default" in default:
        return default["default"]
    raise BadTaskError(f"{field} has no `{names[0]}`")


def _stream(value: Any, name: str, field: str) -> Any:
    """SandboxFusion has an object of streams and files."""
    if not isinstance(value, dict):
        return value
    if set(value) != {name}:
        raise BadTaskError(f"{field} uses the files {sorted(set(value) - {name})}; only {name} is supported")
    return value[name]


def _weight(case: Row, field: str) -> dict[str, Any]:
    weight = case.get("weight", case.get("points", 1.0))
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
        raise BadTaskError(f"{field}.weight is {weight!r}; it must be a number >= 0")
    return {"weight": float(weight), "group": str(case.get("group", case.get("subtask", "")))}


def program_suite(cases: list[ProgramCase], row: Row) -> TestSuite:
    for field in ("input_file", "output_file"):
        if row.get(field) and row[field] not in ("stdin", "stdout"):
            raise BadTaskError(f"tests.{field} is {row[field]!r}: programs that use files are not supported, only stdin and stdout")
    if row.get("input_mode") not in (None, "", "stdio"):
        raise BadTaskError(f"tests.input_mode is {row['input_mode']!r}: only `stdio` is supported")
    checker = str(row.get("generated_checker") or row.get("checker") or "")
    return TestSuite(kind=Kind.PROGRAM, programs=tuple(cases), checker=checker, **_limits(row))


def _call_suite(name: str, cases: list[CallCase], row: Row, wraps: bool) -> TestSuite:
    # Where one expected value is no list of one element, the others are real lists.
    may_be_wrapped = wraps and all(isinstance(case.expected, list) and len(case.expected) == 1 for case in cases)
    return TestSuite(
        kind=Kind.CALL,
        calls=tuple(cases),
        entry_point=name,
        may_be_wrapped=may_be_wrapped,
        **_limits(row),
    )


def _limits(row: Row) -> dict[str, Any]:
    return {"cpu_s": seconds_of(row.get("time_limit")), "memory_bytes": bytes_of(row)}
