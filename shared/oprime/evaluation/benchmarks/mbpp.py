"""MBPP: functions to write from a sentence and a test (Austin et al., arXiv 2108.07732); the 399 of EvalPlus's sanitized version."""

import json

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_code import mbpp
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX
from oprime.tasks.sources.question import first_text


def _read(row: RawRow) -> Asked:
    value = row_object(row)
    tests = value.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise BadRowError(
            row, "test_list", "missing test_list", f"must be a list of asserts, not {shown(tests)}; is it this benchmark's file?"
        )
    description = first_text(row, "prompt", "text").partition(" https://www.")[0]
    return Asked(
        id=row_id(row, "task_id"),
        text=(
            f"Write Python code to solve the task.\nWrite a Python function `{_signature(row)}` to solve the following problem: "
            f"Present code in ```python and ```\n{description}\n"
            f"The code should pass the following test cases:>>> {tests[0]}\n\n Let's coding step by step.\n{CODE_SUFFIX}"
        ),
        ability="code",
        data_source="mbpp",
        ground_truth=json.dumps({"test_imports": value.get("test_imports") or [], "test_list": tests}),
    )


def _signature(row: RawRow) -> str:
    """Of the first function of the reference solution: `name(one, two)`."""
    code = first_text(row, "code")
    line = next((line.strip() for line in code.split("\n") if line.strip().startswith("def ")), None)
    if line is None:
        raise BadRowError(row, "code", "no function", "must define a function; is it this benchmark's file?")
    return line.removeprefix("def ").replace(" ", "").rstrip().rstrip(":").replace(",", ", ")


MBPP = Benchmark(
    name="mbpp",
    title="MBPP",
    version=1,
    files=("mbpp.json", "new_mbpp.json", "mbpp.jsonl", "mbpp.parquet"),
    source="eval/data of PRIME-RL/PRIME, or google-research-datasets/mbpp (sanitized) on the Hugging Face hub",
    read=_read,
    decoding=Decoding(max_tokens=4096),
    paper=mbpp,
    paper_rules="last Python block with a function, of which imports and other lines at the left edge are lost; 3 s",
)
