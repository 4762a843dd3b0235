"""Minerva Math: 272 problems of undergraduate science courses (Lewkowycz et al.), whose answers stand boxed in their solutions."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_math import harness_with_units
from oprime.tasks.rows import RawRow
from oprime.tasks.sources.eurus_sources import MATH_SUFFIX
from oprime.tasks.sources.question import first_text

HARNESS_STOP = ("</s>", "<|im_end|>", "<|endoftext|>")
HARNESS_RULES = "words are struck out, the last box, `answer is` or number counts; relative tolerance 1e-4; a factor of 100 is accepted"


def _read(row: RawRow) -> Asked:
    return Asked(
        id=row_id(row, "idx", "id"),
        text=first_text(row, "problem") + MATH_SUFFIX,
        ability="math",
        data_source="minerva_math",
        ground_truth=first_text(row, "solution"),
    )


MINERVA_MATH = Benchmark(
    name="minerva_math",
    title="Minerva Math",
    version=1,
    files=("minerva_math.jsonl", "minerva_math/test.jsonl", "minerva.jsonl"),
    source="eval/data of PRIME-RL/PRIME, or the Qwen2.5-Math evaluation",
    read=_read,
    decoding=Decoding(max_tokens=4096, stop=HARNESS_STOP),
    paper=harness_with_units,
    paper_rules=HARNESS_RULES,
)
