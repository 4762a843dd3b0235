"""The recipe in miniature at toy size: every stage runs, from the shipped start to the table, and a repeated command does nothing again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.command_line import ROOT, processes_of, sets

SIZES = ("--problems", "8", "--responses", "2", "--solutions", "8")


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_stage_of_the_recipe_leaves_its_result(tmp_path: Path) -> None:
    small = {
        "run.directory": str(tmp_path),
        "run.steps": 2,
        "run.evaluate_every": 0,
        "model.path": str(tmp_path / "sft"),
        "tasks.prose.heldout_problems": 4,
        "coordinator.groups_per_batch": 4,
        "coordinator.filter.enabled": False,
        "generator.backend": "transformers",
        "prm.sampled_groups": 4,
        "sft.demonstrations": str(tmp_path / "demonstrations.jsonl"),
        "sft.steps": 2,
        "sft.batch_rows": 8,
        "offline_prm.data": str(tmp_path / "rollouts.jsonl"),
        "offline_prm.output": str(tmp_path / "prm"),
        "offline_prm.batch_prompts": 4,
    }
    first = recipe(*SIZES, *sets(small))
    assert first.returncode == 0, first.stdout + first.stderr
    report = json.loads((tmp_path / "recipe" / "recipe.json").read_text(encoding="utf-8"))
    for kind in ("math", "code"):
        assert (report["accuracy"][kind]["problems"], report["accuracy"][kind]["responses"]) == (4, 8)
        # What the supervised start has learned by heart after so few steps.
        assert report["accuracy"][kind]["in_form_before"]["value"] > 0.5
        assert set(report["best_of_n"][kind]["prm_sum"]) == {"1", "2"}
    assert set(report["localisation"]) == {"natural", "confuser"}
    evaluations = tmp_path / "recipe" / "evaluations"
    for step, measured in ((0, "before"), (2, "after")):
        found = json.loads((evaluations / f"step-{step:06d}" / "evaluation.json").read_text(encoding="utf-8"))
        values = {one["benchmark"]: one["scores"]["avg@2"]["value"] for one in found["results"]}
        assert values == {
            name: report["accuracy"][kind][measured]["value"] for name, kind in (("word-problems", "math"), ("functions", "code"))
        }
    assert "recipe@0 → recipe@2" in (tmp_path / "recipe" / "report.html").read_text(encoding="utf-8")
    rollouts = (tmp_path / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(len(json.loads(line)["responses"]) for line in rollouts) == 2 * 4 * 4
    answers = tmp_path / "recipe-work" / "after" / "answers.jsonl"
    sampled = answers.stat().st_mtime_ns
    again = recipe(*SIZES, *sets(small))
    assert again.returncode == 0, again.stdout + again.stderr
    assert answers.stat().st_mtime_ns == sampled
    assert processes_of(tmp_path / "recipe") == []


def recipe(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "recipe", *words], capture_output=True, text=True, timeout=1780, cwd=ROOT, env=environment, check=False
    )
