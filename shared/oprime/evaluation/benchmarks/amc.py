"""AMC 12 of 2022 and 2023: 83 problems made free of choices, with numbers for answers."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import contest_id, text_field
from oprime.evaluation.paper_math import contest
from oprime.evaluation.prompts import MATH_SUFFIX
from oprime.tasks.rows import RawRow


def _read(row: RawRow) -> Asked:
    return Asked(
        id=contest_id(row),
        question=text_field(row, "problem", "question") + MATH_SUFFIX,
        verifier="math",
        ground_truth=text_field(row, "answer"),
    )


AMC = Benchmark(
    name="amc",
    title="AMC 2022/23",
    version=1,
    files=("amc.jsonl", "aimo-validation-amc.jsonl", "amc.parquet"),
    source="AI-MO/aimo-validation-amc on the Hugging Face hub, or eval/data of PRIME-RL/PRIME",
    read=_read,
    decoding=Decoding(max_tokens=4096),
    paper=contest,
    paper_rules="last box or what follows `answer:`; relative tolerance 1e-4; a factor of 100 either way is accepted",
)
