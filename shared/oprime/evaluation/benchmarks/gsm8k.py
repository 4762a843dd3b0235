"""GSM8K: 1,319 word problems of primary school (Cobbe et al., arXiv 2110.14168). The paper does not report it."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding, math_problem
from oprime.tasks.rows import RawRow, row_object
from oprime.tasks.sources.math_sources import GSM8K as GSM8K_ROWS


def _read(row: RawRow) -> Asked:
    place = row.origin.rpartition("row ")[2]
    return math_problem(GSM8K_ROWS.read(row), "gsm8k", row, id=str(row_object(row).get("id") or place))


GSM8K = Benchmark(
    name="gsm8k",
    title="GSM8K",
    version=2,
    files=("gsm8k_test.jsonl", "gsm8k.jsonl", "gsm8k.parquet"),
    source="openai/grade-school-math on GitHub, or openai/gsm8k on the Hugging Face hub (the test split)",
    read=_read,
    decoding=Decoding(max_tokens=4096),
)
