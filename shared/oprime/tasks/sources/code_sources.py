"""Programming tasks as they are published: APPS, TACO, CodeContests, Codeforces, and benchmarks.

Tests stay in the encoding of their data set, which the verifier reads; what is no test is left out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oprime.tasks.rows import RawRow, is_text
from oprime.tasks.sources.question import Question, Source, first_text, marks

_CUT = "..."
"""How Codeforces ends a test that is too long to be shown."""


def _question(text: str, tests: Any, source: str) -> Question:
    """Without tests, the ground truth is empty."""
    return Question(text=text, ground_truth=_json(tests) if tests else "", ability="code", data_source=source)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _filled(value: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Those of the fields that say something."""
    return {name: value[name] for name in fields if value.get(name) not in (None, "", [], {})}


def _with_code(text: str, code: Any) -> str:
    """A question with the code that its solution begins with."""
    return f"{text}\n\nYour solution must begin with this code:\n```python\n{code.rstrip()}\n```" if is_text(code) else text


def _apps(row: RawRow, value: Mapping[str, Any]) -> Question:
    """APPS and TACO, whose `input_output` is JSON already."""
    cases = value.get("input_output")
    text = _with_code(first_text(row, "question"), value.get("starter_code"))
    usable = is_text(cases) and cases.strip() not in ("{}", "[]")
    source = "apps" if "problem_id" in value else "taco"
    return Question(text=text, ground_truth=str(cases) if usable else "", ability="code", data_source=source)


def _code_contests(row: RawRow, value: Mapping[str, Any]) -> Question:
    parts = ("public_tests", "private_tests", "generated_tests")
    tests = {name: value[name] for name in parts if isinstance(value.get(name), dict) and value[name].get("input")}
    limits = _filled(value, "time_limit", "memory_limit_bytes", "input_file", "output_file")
    return _question(first_text(row, "description"), {**tests, **limits} if tests else None, "codecontests")


def _codeforces(row: RawRow, value: Mapping[str, Any]) -> Question:
    """One row per submission: the same problem comes many times."""
    parts = [first_text(row, "problem-description")]
    for title, name in (("Input", "input-specification"), ("Output", "output-specification")):
        parts += [f"{title}\n{value[name]}"] if is_text(value.get(name)) else []
    shown = zip(_texts(value.get("demo-input")), _texts(value.get("demo-output")), strict=False)
    parts += [f"Example input\n{given}\n\nExample output\n{expected}" for given, expected in shown]
    parts += [f"Note\n{value['note']}"] if is_text(value.get("note")) else []
    cases = [case for case in value.get("test_cases") or [] if _is_whole(case)]
    tests = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]} if cases else None
    return _question("\n\n".join(parts), tests, "codeforces")


def _texts(value: Any) -> Sequence[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_whole(case: Any) -> bool:
    texts = (case.get("input"), case.get("output")) if isinstance(case, dict) else ()
    return len(texts) == 2 and all(isinstance(text, str) and not text.rstrip().endswith(_CUT) for text in texts)


def _open_r1(row: RawRow, value: Mapping[str, Any]) -> Question:
    """open-r1/codeforces."""
    parts = [first_text(row, "description")]
    for title, name in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        parts += [f"{title}\n{value[name]}"] if is_text(value.get(name)) else []
    tests = _filled(value, "official_tests", "time_limit", "memory_limit", "input_mode")
    return _question("\n\n".join(parts), tests if "official_tests" in tests else None, "codeforces")


def _live_code_bench(row: RawRow, value: Mapping[str, Any]) -> Question:
    tests = _filled(value, "public_test_cases", "private_test_cases")
    text = _with_code(first_text(row, "question_content"), value.get("starter_code"))
    return _question(text, {**tests, **_filled(value, "metadata")} if tests else None, "livecodebench")


def _mbpp(row: RawRow, value: Mapping[str, Any]) -> Question:
    tests = _filled(value, "test_imports", "test_setup_code", "test_list", "challenge_test_list")
    asserts = _texts(value.get("test_list"))
    # The first assert alone says what the function is called and what it is given.
    example = f"\n\nYour code must pass this test:\n```python\n{asserts[0]}\n```" if asserts else ""
    return _question(first_text(row, "text", "prompt") + example, tests if "test_list" in tests else None, "mbpp")


def _human_eval(row: RawRow, value: Mapping[str, Any]) -> Question:
    prompt = first_text(row, "prompt")
    return _question(
        f"Complete this function; give the whole function.\n```python\n{prompt.rstrip()}\n```",
        {"test": first_text(row, "test"), "entry_point": first_text(row, "entry_point"), "prompt": prompt},
        "humaneval",
    )


def _leetcode(row: RawRow, value: Mapping[str, Any]) -> Question:
    """The benchmark of Eurus: the question with the code that it begins with, and test source."""
    return _question(first_text(row, "prompt_sft").strip(), _filled(value, "test"), "leetcode")


def _leetcode_dataset(row: RawRow, value: Mapping[str, Any]) -> Question:
    """newfacade/LeetCodeDataset."""
    text = _with_code(first_text(row, "problem_description"), value.get("starter_code"))
    tests = _filled(value, "test", "entry_point", "prompt")
    return _question(text, tests if "test" in tests else None, "leetcode")


SOURCES = (
    Source(
        name="livecodebench",
        about="LiveCodeBench: `question_content`, `public_test_cases`, `private_test_cases`",
        marks=marks("question_content public_test_cases"),
        read_row=_live_code_bench,
    ),
    Source(name="apps", about="APPS and TACO: `question`, `input_output`", marks=marks("question input_output"), read_row=_apps),
    Source(
        name="codecontests",
        about="CodeContests: `description`, `public_tests`, `private_tests`, `generated_tests`",
        marks=marks("description public_tests", "description private_tests", "description generated_tests"),
        read_row=_code_contests,
    ),
    Source(
        name="codeforces",
        about="Codeforces-Python-Submissions: `problem-description`, `test_cases`; tests that the site cut are left out",
        marks=marks("problem-description test_cases"),
        read_row=_codeforces,
    ),
    Source(
        name="open_r1_codeforces",
        about="open-r1/codeforces: `official_tests`",
        marks=marks("description official_tests"),
        read_row=_open_r1,
    ),
    Source(name="mbpp", about="MBPP, whole or sanitized: `test_list`", marks=marks("text test_list", "prompt test_list"), read_row=_mbpp),
    Source(
        name="humaneval",
        about="HumanEval: `prompt`, `canonical_solution`, `test`, `entry_point`",
        marks=marks("prompt canonical_solution test entry_point"),
        read_row=_human_eval,
    ),
    Source(
        name="leetcode", about="LeetCode as Eurus evaluates it: `prompt_sft`, `test`", marks=marks("prompt_sft test"), read_row=_leetcode
    ),
    Source(
        name="leetcode_dataset",
        about="LeetCodeDataset: `problem_description`, `starter_code`, `test`",
        marks=marks("problem_description test"),
        read_row=_leetcode_dataset,
    ),
)
