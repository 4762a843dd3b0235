"""GSM8K: 1,319 word problems of primary school (Cobbe et al., arXiv 2110.14168). The paper does not report it."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import text_field
from oprime.evaluation.prompts import MATH_SUFFIX
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown

MARK = "####"


def _read(row: RawRow) -> Asked:
    solution = text_field(row, "answer")
    if MARK not in solution:
        raise BadRowError(row, "answer", "no final answer", f"must end with `{MARK} ANSWER`, not {shown(solution[-40:])}")
    return Asked(
        id=str(row_object(row).get("id") or row.origin.rpartition("row ")[2]),
        question=text_field(row, "question") + MATH_SUFFIX,
        verifier="math",
        ground_truth=solution.rpartition(MARK)[2].strip(),
    )


GSM8K = Benchmark(
    name="gsm8k",
    title="GSM8K",
    version=1,
    files=("gsm8k_test.jsonl", "gsm8k.jsonl", "gsm8k.parquet"),
    source="openai/grade-school-math on GitHub, or openai/gsm8k on the Hugging Face hub (the test split)",
    read=_read,
    decoding=Decoding(max_tokens=4096),
)
