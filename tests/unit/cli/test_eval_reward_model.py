"""Best of N by a PRM, from kept samples to numbers, with chain models of random weights."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evaluation_world import problem
from oprime.adapters.store_weights import StoreWeights
from oprime.evaluation.results import ProblemResult
from oprime.evaluation.samples import Grade, Sample
from oprime.lm.lora import adapter_files, add_adapter, in_adapter_file, merged
from oprime.lm.models import load_causal_lm
from oprime.runtime.errors import OprimeError, SettingsError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime_cli.evaluating.reward_model import StoredRewards, best_of, find_reward_model, score_samples
from oprime_cli.main import main
from oprime_cli.prm_eval.models import LocalPrm, PrmSource
from oprime_cli.run_config import RunConfig
from oprime_cli.running.run_folder import RunFolder
from oprime_cli.warm_up.start import new_chain_model
from tiny_adapters import moved, trained

PROBLEMS = (problem("3 +8 ?", "1"), problem("5 -2 ?", "3"))
RESPONSES = {"3 +8 ?": ["=1 #1", "=2 #2", "=1 #1", "=9 #9"], "5 -2 ?": ["=4 #4", "=3 #3", "=4 #4", "=3 #3"]}
SAMPLES = [
    Sample(problem=name, sample=number, seed=0, response=text, finish_reason="stop", tokens=3, grade=Grade(verdict="CORRECT", score=1.0))
    for name, texts in RESPONSES.items()
    for number, text in enumerate(texts)
]
RESULTS = (
    ProblemResult(problem="3 +8 ?", subset="", scores=(1.0, 0.0, 1.0, 0.0), answers=(0, 1, 0, 2)),
    ProblemResult(problem="5 -2 ?", subset="", scores=(0.0, 1.0, 0.0, 1.0), answers=(0, 1, 0, 1)),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("reference", "prm")):
        new_chain_model(seed).save_pretrained(str(folder / name))
        chain_tokenizer().save_pretrained(str(folder / name))
    (folder / "prm" / "offline_prm.json").write_text(json.dumps({"beta": 2.0, "reference_model": str(folder / "reference")}))
    return folder


def test_samples_are_scored_once_and_the_best_is_chosen(models: Path, tmp_path: Path) -> None:
    model = find_reward_model(str(models / "prm"), None, None, " ")
    prm = LocalPrm(model.source, dtype="float32", device="cpu", pass_tokens=60)
    heard: list[int] = []
    stored = score_samples(prm, model, PROBLEMS, SAMPLES, tmp_path, heard.append)
    assert heard == [0, 8]
    ways = best_of(RESULTS, SAMPLES, stored, [1, 2, 4], seed=0)
    assert {
        way: [score["value"] for score in by_n.values()] for way, by_n in ways.items() if way in ("first", "majority", "any_right")
    } == {
        "first": [0.5, 0.5, 0.5],
        # Of four, 1 leads with two votes; 4 and 3 have two each, and 4 comes first. Of two, ties go to the first.
        "majority": [0.5, 0.5, 0.5],
        "any_right": [0.5, 1.0, 1.0],
    }
    totals = [stored["3 +8 ?", number]["sum"] for number in range(4)]
    chosen = RESULTS[0].scores[totals.index(max(totals))], RESULTS[1].scores[max(range(4), key=lambda n: stored["5 -2 ?", n]["sum"])]
    assert ways["prm_sum"]["4"]["value"] == sum(chosen) / 2
    again = score_samples(prm, model, PROBLEMS, SAMPLES, tmp_path, heard.append)
    assert (again["3 +8 ?", 0], heard) == (stored["3 +8 ?", 0], [0, 8, 8])
    assert StoredRewards(tmp_path / "rewards.jsonl", {**model.identity, "beta": 1.0}).missing(SAMPLES) == SAMPLES


def test_programs_are_ranked_and_not_voted_on(models: Path, tmp_path: Path) -> None:
    model = find_reward_model(str(models / "prm"), None, None, " ")
    prm = LocalPrm(model.source, dtype="float32", device="cpu", pass_tokens=60)
    stored = score_samples(prm, model, PROBLEMS, SAMPLES, tmp_path, lambda done: None)
    code = [ProblemResult(problem=one.problem, subset="", scores=one.scores) for one in RESULTS]
    assert set(best_of(code, SAMPLES, stored, [2], seed=0)) == {"first", "prm_sum", "prm_mean", "prm_min_step", "any_right"}


def test_the_prm_of_a_run_may_be_an_adapter_on_the_model_that_the_run_began_with(
    models: Path, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    base, run = models / "reference", tmp_path / "run"
    config = make_config(f"run.directory={tmp_path}", "run.name=run", f"model.path={base}", "prm.beta=2.0")
    RunFolder(run).begin(config)
    adapted = moved(add_adapter(load_causal_lm(base), LoraSection(rank=2), seed=0))
    store = StoreWeights(str(run / "prm_weights"), template=base, adapter_files=adapter_files(adapted, base, base))
    store.publish(4, in_adapter_file((name, tensor.detach()) for name, tensor in trained(adapted).items()), parent=None)
    model = find_reward_model(f"{run}@4", None, None, " ")
    assert (model.source.prm, model.source.adapter) == (str(base), str(run / "prm_weights" / "v00000004"))

    def scores(source: PrmSource) -> list[float]:
        prm = LocalPrm(source, dtype="float32", device="cpu", pass_tokens=60)
        encoded = prm.encoder.encode(PROBLEMS[0].task.messages, RESPONSES["3 +8 ?"])
        return [float(value) for one in prm.score(encoded, lambda done: None) for value in one.process_rewards]

    whole = tmp_path / "whole"
    new_chain_model(0).save_pretrained(whole)
    save_file({name: tensor.contiguous() for name, tensor in merged(adapted, weights_of(adapted))}, whole / "model.safetensors")
    chain_tokenizer().save_pretrained(str(whole))
    found = scores(model.source)
    assert max(map(abs, found)) > 0.1
    assert found == pytest.approx(scores(PrmSource(prm=str(whole), reference=str(base), beta=2.0)), abs=1e-5)
    with pytest.raises(WeightsRefusedError, match=r"adapter .*v00000004 belongs to .*reference .*but the model here is .*prm "):
        scores(replace(model.source, prm=str(models / "prm")))


def weights_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor.detach()) for name, tensor in model.named_parameters())


def test_a_damaged_file_of_rewards_is_named(tmp_path: Path) -> None:
    (tmp_path / "rewards.model.json").write_text("{}")
    (tmp_path / "rewards.jsonl").write_text("{")
    with pytest.raises(OprimeError, match=r"rewards.jsonl cannot be read"):
        StoredRewards(tmp_path / "rewards.jsonl", {})


def test_a_prm_needs_a_reference_and_a_beta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="give --reference"):
        find_reward_model(str(tmp_path), None, None, " ")
    (tmp_path / "recorded.jsonl").write_text("")
    assert main(["eval", str(tmp_path / "recorded.jsonl"), "--beta", "2"]) == 2
    assert "--reference and --beta belong to a PRM" in capsys.readouterr().err
