"""A short run of the demo as it is: vLLM, Redis, DeepSpeed and all six services."""

import json
from pathlib import Path

import pytest

from e2e.command_line import metric_rows, oprime, processes_of, summary
from e2e.conftest import small_run

STEPS = 5


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_run_through_six_services_trains_accounts_for_every_rollout_and_stops(starting_model: Path, tmp_path: Path) -> None:
    chains = tmp_path / "chains.jsonl"
    assert oprime("tasks", "chain", "--out", str(chains), "--split", "heldout", "--rows", "8", "--operations", "2").returncode == 0
    arguments = small_run(
        starting_model,
        tmp_path,
        "vllm",
        **{
            "run.steps": STEPS,
            "run.evaluate_every": 2,
            "run.evaluate_on": [str(chains)],
            "run.evaluate_on_every": 2,
            "run.evaluate_on_samples": 2,
            "generator.backend": "vllm",
            "staleness.max_staleness": 2,
            "coordinator.groups_per_batch": 8,
            "tasks.chain.heldout_problems": 64,
        },
    )
    result = oprime(*arguments, timeout_s=560)
    assert result.returncode == 0, result.stdout + result.stderr
    run = tmp_path / "vllm"
    document = summary(run)
    assert document["steps"] == STEPS
    assert document["ledger_closed"]
    assert document["ledger"]["trained"] == STEPS * 8 * 4
    assert document["ledger"]["issued"] == sum(count for name, count in document["ledger"].items() if name != "issued")
    assert document["staleness_max"] <= 2
    # A run this short may end before an evaluation in between has; the first and the last always come.
    evaluated = [row["step"] for row in metric_rows(run, "evaluation")]
    assert (evaluated[0], evaluated[-1]) == (0, STEPS)
    benchmarked = metric_rows(run, "benchmark")
    assert (benchmarked[0]["step"], benchmarked[-1]["step"]) == (0, STEPS)
    assert all((row["benchmark"], row["problems"], row["samples"], row["unjudged"]) == ("chains", 8, 2, 0) for row in benchmarked)
    assert all(row["step"] <= row["oldest_weight_version"] for row in benchmarked)
    last = json.loads((run / "evaluations" / f"training-{STEPS:06d}" / "evaluation.json").read_text())
    assert last["results"][0]["scores"]["avg@2"]["value"] == benchmarked[-1]["accuracy"]
    steps = metric_rows(run, "step")
    # vLLM's log-probs are the learner's, but for kernels and weight versions.
    assert steps[0]["mismatch_kl_nats"] < 1e-3
    assert all(row["policy_gradient_norm"] > 0 for row in steps)
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "samples" / "step-000001.jsonl").exists()
    assert processes_of(run) == []
