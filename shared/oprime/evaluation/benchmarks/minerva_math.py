"""Minerva Math: 272 problems of undergraduate science courses (Lewkowycz et al.), whose answers stand boxed in their solutions."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import text_field
from oprime.evaluation.paper_math import harness_with_units
from oprime.evaluation.prompts import MATH_SUFFIX
from oprime.tasks.rows import RawRow

HARNESS_STOP = ("</s>", "<|im_end|>", "<|endoftext|>")
HARNESS_RULES = "words are struck out, the last box, `answer is` or number counts; relative tolerance 1e-4; a factor of 100 is accepted"


def _read(row: RawRow) -> Asked:
    return Asked(
        id=text_field(row, "idx", "id"),
        question=text_field(row, "problem") + MATH_SUFFIX,
        verifier="math",
        ground_truth=text_field(row, "solution"),
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
