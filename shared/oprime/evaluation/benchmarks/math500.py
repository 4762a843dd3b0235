"""MATH-500: 500 problems of the test split of MATH (Hendrycks et al.), chosen by Lightman et al."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import text_field
from oprime.evaluation.paper_math import boxed
from oprime.evaluation.prompts import MATH_SUFFIX
from oprime.tasks.rows import RawRow, row_object


def _read(row: RawRow) -> Asked:
    value = row_object(row)
    return Asked(
        id=text_field(row, "id", "unique_id"),
        question=text_field(row, "problem") + MATH_SUFFIX,
        verifier="math",
        ground_truth=text_field(row, "expected_answer", "answer"),
        subset=str(value.get("level") or ""),
    )


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
