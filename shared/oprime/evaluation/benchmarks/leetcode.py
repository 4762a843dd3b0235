"""LeetCode: 180 problems of contests of July 2023 to January 2024, from DeepSeek-Coder's benchmark."""

import json

from oprime.evaluation.benchmark import Asked, Benchmark, Decoding
from oprime.evaluation.load import row_id
from oprime.evaluation.paper_code import leetcode
from oprime.tasks.rows import RawRow, row_object
from oprime.tasks.sources.eurus_sources import CODE_SUFFIX
from oprime.tasks.sources.question import first_text


def _read(row: RawRow) -> Asked:
    meta = row_object(row).get("meta")
    tests = {"prompt": first_text(row, "prompt"), "test": first_text(row, "test")}
    return Asked(
        id=row_id(row, "task_id"),
        text=first_text(row, "prompt_sft") + CODE_SUFFIX,
        ability="code",
        data_source="leetcode",
        ground_truth=json.dumps(tests),
        verifier_options={"cpu_s": 10.0},
        subset=str(meta.get("difficulty") or "") if isinstance(meta, dict) else "",
    )


LEETCODE = Benchmark(
    name="leetcode",
    title="LeetCode",
    version=1,
    files=("leetcode.jsonl", "leetcode-test.json", "leetcode-test.jsonl"),
    source="eval/data of PRIME-RL/PRIME",
    read=_read,
    decoding=Decoding(max_tokens=8192, stop=("<|eot_id|>",)),
    paper=leetcode,
    paper_rules="last Python block with a function, made the body of `class Solution` where it has none; 10 s",
)
