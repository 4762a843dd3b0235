"""AIME: two contests of fifteen problems a year, whose answers are whole numbers from 0 to 999."""

from collections.abc import Callable
from dataclasses import replace

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding, math_problem
from oprime.evaluation.load import contest_id
from oprime.evaluation.paper_math import contest
from oprime.tasks.rows import RawRow, row_object
from oprime.tasks.sources.math_sources import PLAIN


def _reader(year: int, *, alone: bool) -> Callable[[RawRow], Asked | None]:
    """Reads the problems of one year: those whose address says so, or all rows where the file is that year's `alone`."""

    def read(row: RawRow) -> Asked | None:
        if not alone and f"{year}_AIME" not in str(row_object(row).get("url")):
            return None
        published = PLAIN.read(row)
        answer = published.ground_truth.lstrip("0") or published.ground_truth[-1:]
        return math_problem(replace(published, ground_truth=answer), f"aime{year}", row, id=contest_id(row))

    return read


_DECODING = Decoding(max_tokens=4096, stop=("\n###\nProblem: ", "<|eot_id|>"))
_RULES = "last box or what follows `answer:`; relative tolerance 1e-4; a factor of 100 either way is accepted"

AIME_2024 = Benchmark(
    name="aime2024",
    title="AIME 2024",
    version=1,
    files=("aime.jsonl", "aime2024.jsonl", "aimo-validation-aime.jsonl", "aime2024.parquet"),
    source="AI-MO/aimo-validation-aime on the Hugging Face hub (AIME 2022 to 2024), or eval/data of PRIME-RL/PRIME",
    read=_reader(2024, alone=False),
    decoding=_DECODING,
    paper=contest,
    paper_rules=_RULES,
)
AIME_2025 = Benchmark(
    name="aime2025",
    title="AIME 2025",
    version=1,
    files=("aime2025.jsonl", "aime25.jsonl", "aime2025.parquet"),
    source="yentinglin/aime_2025 or math-ai/aime25 on the Hugging Face hub",
    read=_reader(2025, alone=True),
    decoding=_DECODING,
    paper=contest,
    paper_rules=_RULES,
)
