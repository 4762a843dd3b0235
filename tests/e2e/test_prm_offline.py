"""An offline PRM through the commands, on the demo's task and on real data."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2e.command_line import DEMO, oprime, sets

DATA = Path(__file__).parents[2] / "../shared/data"
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
TRAINING = {"steps": 100, "batch_prompts": 16, "teacher_responses": 8, "max_tokens": 40, "beta": 0.5, "learning_rate": 1e-3}
TRAINING |= {"schedule": "constant", "gradient_clip": 10, "adam_beta2": 0.999, "micro_batch_rollouts": 128, "threads": 1}


def succeed(*words: str) -> None:
    result = oprime(*words)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that learned from labelled responses of the demo's teacher alone."""
    folder = tmp_path_factory.mktemp("prm")
    succeed("sft", str(DEMO), *sets({"model.path": str(folder / "chain")}))
    given = {f"offline_prm.{name}": value for name, value in {**TRAINING, "output": str(folder / "prm")}.items()}
    succeed("prm", "train", str(DEMO), *sets({"model.path": str(folder / "chain"), **given}))
    return folder / "prm"


def judged(prm: Path, kind: str, *words: str) -> dict[str, Any]:
    out = prm.parent / "out.json"
    succeed("prm", "eval", kind, *words, "--prm", str(prm), "--out", str(out))
    return json.loads(out.read_text())


@pytest.mark.slow
def test_what_the_prm_ranks_first_is_right_more_often_than_the_majority_and_that_than_the_first(prm: Path, tmp_path: Path) -> None:
    rows = str(tmp_path / "rows.jsonl")
    succeed("tasks", "chain", "--split", "heldout", "--rows", "256", "--responses", "16", "--out", rows)
    ways = judged(prm, "best-of", rows, "--separator", " ")["subsets"][0]["ways"]
    for n in ("4", "8", "16"):
        assert ways["pass"][n] >= ways["prm_sum"][n] >= ways["majority"][n] >= ways["first"][n]
    assert ways["prm_sum"]["16"] > ways["first"]["16"] + 0.3


@pytest.mark.slow
def test_the_prm_finds_the_first_wrong_step_better_than_its_reference(prm: Path, tmp_path: Path) -> None:
    rows = str(tmp_path / "natural.jsonl")
    succeed("tasks", "chain", "--split", "heldout", "--rows", "400", "--errors", "natural", "--out", rows)
    ways = judged(prm, "processbench", rows, "--separator", " ")["subsets"][0]["ways"]
    assert ways["single_sum"]["fitted"]["f1"] > ways["reference_logprob"]["fitted"]["f1"]


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "processbench").is_dir(), reason="no folder shared/data beside the repository")
def test_processbench_runs_through_on_all_four_subsets(tmp_path: Path) -> None:
    """With random weights, on the first rows of each: F1 is what it is."""
    text = text_model(tmp_path)
    files = [str(DATA / "processbench" / f"{name}.json") for name in SUBSETS]
    found = judged(text, "processbench", *files, "--reference", str(text), "--beta", "0.05", "--limit", "40")
    assert [subset["subset"] for subset in found["subsets"]] == list(SUBSETS)
    for subset in found["subsets"]:
        assert subset["sizes"]["wrong"] + subset["sizes"]["right"] == 40
        # Its own reference rewards nothing: with a threshold of 0 no step is called wrong.
        assert subset["ways"]["single_sum"]["at_zero"]["passed_right"] == 1.0


def text_model(folder: Path) -> Path:
    """Random weights over bytes."""
    from bench.offline_prm import new_text_model

    new_text_model(folder / "text", ["any text"])
    return folder / "text"


@pytest.mark.skipif(not (DATA / "rm_pointwise.parquet").is_file(), reason="no folder shared/data beside the repository")
def test_real_rollouts_are_read_as_groups() -> None:
    from oprime.tasks.response_formats.registry import open_responses
    from oprime.tasks.responses import read_responses

    reader, rows = open_responses(str(DATA / "rm_pointwise.parquet"), "x", "", "y")
    found = [read_responses(row, reader) for row in rows]
    assert (reader.name, len(found), len({one.messages for one in found})) == ("pointwise", 1086, 260)
    assert sum(one.outcome_rewards[0] for one in found) == 543
