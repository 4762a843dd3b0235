"""LiveCodeBench, code generation (Jain et al., arXiv 2403.07974): problems of contests from May 2023 on, in the form in which it is
published. The paper reports those of 2023-05-01 to 2024-05-31 ("v2").

Private tests are base64 of zlib of a pickle of a JSON text. They stay packed here; the verifier opens them with an unpickler that admits
text alone.
"""

import json
from datetime import date

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_code import live_code_bench
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX
from oprime.tasks.sources.question import first_text

FIRST, LAST = date(2023, 5, 1), date(2024, 5, 31)
_WITH_STARTER = "You will use the following starter code to write the solution to the problem and enclose your code within delimiters."
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample inputs). "
    "Enclose your code within delimiters as follows."
)


def _read(row: RawRow) -> Asked | None:
    if not FIRST <= _contest_date(row) <= LAST:
        return None
    value = row_object(row)
    tests = {name: value.get(name) for name in ("public_test_cases", "private_test_cases", "metadata") if value.get(name)}
    if "public_test_cases" not in tests and "private_test_cases" not in tests:
        raise BadRowError(row, "public_test_cases", "missing tests", "public_test_cases or private_test_cases must hold tests")
    starter = value.get("starter_code") or ""
    form = f"{_WITH_STARTER}\n```python\n{starter}\n```" if starter else f"{_WITHOUT_STARTER}\n```python\n# YOUR CODE HERE\n```"
    return Asked(
        id=row_id(row, "question_id"),
        text=(
            f"### Question:\n{first_text(row, 'question_content')}\n\n### Format: {form}\n\n"
            f"### Answer: (use the provided format with backticks)\n\n{CODE_SUFFIX}"
        ),
        ability="code",
        data_source="livecodebench",
        ground_truth=json.dumps(tests),
        verifier_options={"cpu_s": 6.0},
        subset=str(value.get("difficulty") or ""),
    )


def _contest_date(row: RawRow) -> date:
    text = first_text(row, "contest_date")
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise BadRowError(row, "contest_date", "wrong date", f"must be a date such as 2023-08-21T00:00:00, not {shown(text)}") from error


LIVECODEBENCH = Benchmark(
    name="livecodebench",
    title="LiveCodeBench (2023-05 to 2024-05)",
    version=1,
    files=("livecodebench.jsonl", "livecodebench.parquet"),
    source="livecodebench/code_generation_lite on the Hugging Face hub (release_v2 and later have these problems)",
    read=_read,
    decoding=Decoding(temperature=0.2, top_p=0.95, max_tokens=4096, stop=("###",)),
    samples=10,
    paper=live_code_bench,
    paper_rules="what stands between the last two lines with a fence",
)
