"""HumanEval: 164 functions to write from a signature and a docstring (Chen et al., arXiv 2107.03374)."""

import json
import re

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_code import human_eval
from oprime.tasks.rows import BadRowError, RawRow
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX
from oprime.tasks.sources.question import first_text


def _read(row: RawRow) -> Asked:
    prompt, entry_point = first_text(row, "prompt"), first_text(row, "entry_point")
    signature = re.search(rf"def\s+({re.escape(entry_point)}.*?):\s*\n", prompt)
    if signature is None:
        raise BadRowError(row, "prompt", "no signature", f"must define {entry_point}, the entry point; is it this benchmark's file?")
    tests = {"prompt": prompt, "entry_point": entry_point, "test": first_text(row, "test")}
    return Asked(
        id=row_id(row, "task_id"),
        text=(
            f"Write Python code to solve the task.\nWrite a Python function `{signature[1]}` to solve the following problem: "
            f"Present code in ```python```\n```python\n{prompt}\n```\n{CODE_SUFFIX}"
        ),
        ability="code",
        data_source="humaneval",
        ground_truth=json.dumps(tests),
    )


HUMAN_EVAL = Benchmark(
    name="humaneval",
    title="HumanEval",
    version=1,
    files=("HumanEval.jsonl.gz", "HumanEval.jsonl", "humaneval.jsonl", "humaneval.parquet"),
    source="openai/human-eval on GitHub, or openai/openai_humaneval on the Hugging Face hub",
    read=_read,
    decoding=Decoding(max_tokens=4096, stop=("<|eot_id|>",)),
    paper=human_eval,
    paper_rules="last Python block with a function, placed behind the prompt; 3 s",
)
