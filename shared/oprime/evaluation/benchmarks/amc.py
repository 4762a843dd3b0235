"""AMC 12 of 2022 and 2023: 83 problems made free of choices, with numbers for answers."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding, math_problem
from oprime.evaluation.load import contest_id
from oprime.evaluation.paper_math import contest
from oprime.tasks.rows import RawRow
from oprime.tasks.sources.math_sources import PLAIN


def _read(row: RawRow) -> Asked:
    return math_problem(PLAIN.read(row), "amc", row, id=contest_id(row))


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
