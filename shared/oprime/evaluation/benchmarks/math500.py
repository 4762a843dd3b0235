"""MATH-500: 500 problems of the test split of MATH (Hendrycks et al.), chosen by Lightman et al."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding, math_problem
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_math import boxed
from oprime.tasks.rows import RawRow, row_object
from oprime.tasks.sources.math_sources import MATH


def _read(row: RawRow) -> Asked:
    level = row_object(row).get("level")
    return math_problem(MATH.read(row), "math500", row, id=row_id(row, "id", "unique_id"), subset=str(level or ""))


MATH_500 = Benchmark(
    name="math500",
    title="MATH-500",
    version=1,
    files=("math500.json", "math_test_cleaned.json", "math500.jsonl", "math500.parquet"),
    source="HuggingFaceH4/MATH-500 on the Hugging Face hub, or eval/data of PRIME-RL/PRIME",
    read=_read,
    decoding=Decoding(max_tokens=8192, stop=("\n###\nProblem: ", "<|eot_id|>")),
    paper=boxed,
    paper_rules="last box or what follows `the answer is:`; relative tolerance 1e-4; a factor of 100 either way is accepted; pi also 3.14",
)
