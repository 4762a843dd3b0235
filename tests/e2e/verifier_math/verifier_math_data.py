"""Real golds and solutions, from the folder `shared/data` beside the repository. Never copied into it."""

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "../shared/data"


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent: the data is public and not part of the repository")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns = json.loads(path.read_text(encoding="utf-8"))
    values = {name: list(column.values()) if isinstance(column, dict) else column for name, column in columns.items()}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def golds(name: str) -> list[str]:
    """The golds of a data set, as its tasks would carry them."""
    readers = {
        "math500.json": lambda row: [row["expected_answer"]],
        "olympiadbench.jsonl": lambda row: row["final_answer"],
        "minerva_math.jsonl": lambda row: [row["solution"]],
        "aime.jsonl": lambda row: [str(row["answer"])],
        "amc.jsonl": lambda row: [str(row["answer"])],
        "gsm8k_test.jsonl": lambda row: [row["answer"]],
    }
    return [gold for row in rows(name) for gold in readers[name](row)]


SETS = ("math500.json", "olympiadbench.jsonl", "minerva_math.jsonl", "aime.jsonl", "amc.jsonl", "gsm8k_test.jsonl")
