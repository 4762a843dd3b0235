"""OlympiadBench: 675 problems of competitions in English, without pictures and with a final answer (He et al., arXiv 2402.14008)."""

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.benchmarks.minerva_math import HARNESS_RULES, HARNESS_STOP
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_math import harness
from oprime.tasks.rows import BadRowError, RawRow, row_object, shown
from oprime.tasks.sources.eurus_sources import MATH_SUFFIX
from oprime.tasks.sources.question import first_text


def _read(row: RawRow) -> Asked:
    value = row_object(row)
    return Asked(
        id=row_id(row, "id"),
        text=first_text(row, "question") + MATH_SUFFIX,
        ability="math",
        data_source="olympiadbench",
        ground_truth=_gold(row),
        subset=str(value.get("answer_type") or ""),
    )


def _gold(row: RawRow) -> str:
    """Several answers stand in one text."""
    answers = row_object(row).get("final_answer")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        rule = f"must be a list of texts, not {shown(answers)}; is it this benchmark's file?"
        raise BadRowError(row, "final_answer", "missing final_answer", rule)
    return ", ".join(answers)


OLYMPIADBENCH = Benchmark(
    name="olympiadbench",
    title="OlympiadBench",
    version=1,
    files=("olympiadbench.jsonl", "olympiadbench/test.jsonl"),
    source="eval/data of PRIME-RL/PRIME, or the Qwen2.5-Math evaluation (OE_TO_maths_en_COMP)",
    read=_read,
    decoding=Decoding(max_tokens=4096, stop=HARNESS_STOP),
    paper=harness,
    paper_rules=HARNESS_RULES,
)
