"""`oprime eval` with the real vLLM: of a model, gone on with, and chosen among by a PRM; and of a run's adapter on its model."""

import json
from pathlib import Path
from statistics import mean

import pytest
from peft import PeftModel

from e2e.command_line import oprime
from e2e.conftest import small_run
from oprime.lm.models import load_causal_lm
from oprime.tasks.chain import parse_problem
from oprime.tasks.chain_tokenizer import save_chain_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_model_is_evaluated_and_the_evaluation_goes_on(starting_model: Path, tmp_path: Path) -> None:
    chains, out = tmp_path / "chains.jsonl", tmp_path / "out"
    assert oprime("tasks", "chain", "--out", str(chains), "--split", "heldout", "--rows", "32", "--operations", "2").returncode == 0
    asked = ["eval", str(starting_model), "--tasks", str(chains), "--temperature", "1", "--max-tokens", "16", "--out", str(out)]
    first = oprime(*asked, "--samples", "2", timeout_s=600)
    assert first.returncode == 0, first.stdout + first.stderr
    lines = (out / "chains" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 64
    # As after a kill: the second half is gone, and the last line was cut.
    (out / "chains" / "samples.jsonl").write_text("\n".join(lines[:32]) + "\n" + lines[32][:20])
    prm = ["--reward-model", str(starting_model), "--reference", str(starting_model), "--beta", "1"]
    again = oprime(*asked, "--samples", "4", *prm, timeout_s=600)
    assert again.returncode == 0, again.stdout + again.stderr
    samples = [json.loads(line) for line in (out / "chains" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 128
    assert samples[:32] == [json.loads(line) for line in lines[:32]]
    problems = [parse_problem(json.loads(line)["prompt"][0]["content"]) for line in chains.read_text().splitlines()]
    right = [problems[int(sample["problem"])].answered_by(sample["response"]) for sample in samples]
    result = json.loads((out / "chains" / "result.json").read_text())
    assert result["scores"]["avg@4"]["value"] == pytest.approx(mean(right))
    assert set(right) == {True, False}
    # A PRM that is its own reference calls every response as good as the first.
    assert result["reward_model"]["best_of"]["prm_sum"]["4"] == result["reward_model"]["best_of"]["first"]["4"]


def test_an_adapter_of_a_run_is_evaluated_on_the_runs_model(starting_model: Path, tmp_path: Path) -> None:
    # Steps so large that the adapter cannot be overlooked.
    adapters = {"learner.lora.rank": 8, "learner.lora.publish": "adapter", "learner.learning_rate": 3e-2}
    trained = oprime(*small_run(starting_model, tmp_path, "adapted", **adapters))
    assert trained.returncode == 0, trained.stdout + trained.stderr
    run, whole = tmp_path / "adapted", tmp_path / "whole"
    adapted = PeftModel.from_pretrained(load_causal_lm(run / "weights" / "v00000000"), str(run / "weights" / "v00000003"))
    adapted.merge_and_unload().save_pretrained(whole)
    save_chain_tokenizer(whole)

    def responses(target: str, backend: str) -> list[str]:
        chains, out = tmp_path / "chains.jsonl", tmp_path / f"{backend} {Path(target).name}"
        assert oprime("tasks", "chain", "--out", str(chains), "--split", "heldout", "--rows", "16", "--operations", "2").returncode == 0
        asked = ["eval", target, "--tasks", str(chains), "--max-tokens", "16", "--out", str(out)]
        result = oprime(*asked, "--set", f"generator.backend={backend}")
        assert result.returncode == 0, result.stdout + result.stderr
        lines = (out / "chains" / "samples.jsonl").read_text().splitlines()
        return [sample["response"] for sample in sorted(map(json.loads, lines), key=lambda sample: sample["problem"])]

    found = responses(f"{run}@3", "vllm")
    assert found == responses(str(whole), "transformers")
    assert found != responses(f"{run}@0", "transformers")
