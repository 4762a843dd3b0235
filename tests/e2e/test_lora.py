"""Runs whose policy and PRM are adapters, through the real services: `pytest tests/e2e/test_lora.py -m slow`."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config

from e2e.command_line import DEMO, kill_everything, metric_rows, oprime, sets, start_oprime, summary
from e2e.conftest import small_run, wait_for_step
from oprime.lm.lora import add_adapter, in_adapter_file, merged
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.runtime.errors import SettingsError
from oprime.runtime.training_settings import LoraSection
from oprime_generator.config import GeneratorSection
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import BOS, END, VOCABULARY, write_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 3
LORA = LoraSection(rank=8, alpha=16.0)
OF_BOTH: dict[str, object] = {
    f"{section}.{name}": value
    for section in ("learner", "prm")
    for name, value in {"lora.rank": LORA.rank, "lora.alpha": LORA.alpha, "learning_rate": 3e-3, "adam_eps": 1e-5}.items()
}


def adapters_of(run: Path, part: str, step: int) -> dict[str, Tensor]:
    saved = load_file(run / "checkpoints" / f"step-{step:06d}" / part / "state-00000.safetensors")
    return {name.removeprefix("master/"): tensor for name, tensor in saved.items() if name.startswith("master/")}


def version(run: Path, folder: str, step: int) -> Path:
    return run / folder / f"v{step:08d}"


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
@pytest.mark.parametrize("publish", ["merged", "adapter"])
def test_a_run_with_adapters_samples_with_what_it_trains(starting_model: Path, tmp_path: Path, publish: str, backend: str) -> None:
    forms: dict[str, object] = {f"{section}.lora.publish": publish for section in ("learner", "prm")}
    more: dict[str, object] = {"run.steps": STEPS, "run.checkpoint_every": STEPS, "generator.backend": backend, "store.keep_versions": 9}
    # No rollout is older than the weights that train on it: what differs is how the two compute.
    more["staleness.max_staleness"] = 0
    result = oprime(*small_run(starting_model, tmp_path, "adapted", **OF_BOTH, **forms, **more), timeout_s=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    run = tmp_path / "adapted"
    assert summary(run)["ledger_closed"]
    steps = metric_rows(run, "step")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    # The learner's log-probs, of an adapter on the model, are those of the sampler, of whatever form it followed to.
    assert max(abs(row["mismatch_kl_nats"]) for row in steps) < 1e-4
    trained = adapters_of(run, "policy", STEPS)
    assert all(".lora_" in name for name in trained)
    assert max(float(tensor.abs().max()) for name, tensor in trained.items() if "lora_B" in name) > 1e-3
    for folder, part in (("weights", "policy"), ("prm_weights", "prm")):
        assert_published(starting_model, version(run, folder, STEPS), adapters_of(run, part, STEPS), publish)


def assert_published(start: Path, directory: Path, trained: dict[str, Tensor], publish: str) -> None:
    adapted = add_adapter(load_causal_lm(start), LORA, seed=0)
    assert not adapted.load_state_dict(trained, strict=False).unexpected_keys
    tokens = torch.tensor([[3, 5, 7, 9, 11]])
    with torch.no_grad():
        expected = adapted(input_ids=tokens).logits
        if publish == "merged":
            whole = load_file(directory / "model.safetensors")
            assert all(torch.allclose(whole[name], tensor, atol=1e-6) for name, tensor in merged(adapted, adapted.named_parameters()))
            found = load_causal_lm(directory)(input_ids=tokens).logits
        else:
            stored = load_file(directory / "adapter_model.safetensors")
            assert all(torch.equal(stored[name], tensor) for name, tensor in in_adapter_file(trained.items()))
            assert not (directory / "model.safetensors").exists()
            base = json.loads((directory / "base.json").read_text(encoding="utf-8"))["path"]
            found = PeftModel.from_pretrained(load_causal_lm(base), str(directory))(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_killed_run_with_adapters_ends_as_an_undisturbed_one(starting_model: Path, tmp_path: Path) -> None:
    steps = 5
    more: dict[str, object] = {"run.steps": steps, "run.checkpoint_every": 2, "staleness.max_staleness": 0}
    more["learner.lora.publish"] = "adapter"
    whole = oprime(*small_run(starting_model, tmp_path, "undisturbed", **OF_BOTH, **more), timeout_s=400)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    run = tmp_path / "killed"
    process = start_oprime(*small_run(starting_model, tmp_path, "killed", **OF_BOTH, **more), log=tmp_path / "first.log")
    try:
        wait_for_step(run, 3, timeout_s=240)
    finally:
        kill_everything(process, run)
    assert not (run / "checkpoints" / f"step-{steps:06d}").exists()
    result = oprime("resume", str(run), timeout_s=400)
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("policy", "prm"):
        straight, resumed = adapters_of(tmp_path / "undisturbed", part, steps), adapters_of(run, part, steps)
        assert straight.keys() == resumed.keys()
        apart = {name: float((straight[name] - tensor).abs().max()) for name, tensor in resumed.items()}
        assert max(apart.values()) < 2e-6, f"{part}: {apart}"


@pytest.mark.filterwarnings("ignore")
async def test_a_model_whose_adapters_vllm_does_not_know_is_refused_at_the_start(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=256, bos_token_id=BOS, eos_token_id=END)
    random_causal_lm(config, 0).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    sampler = VllmSampler(
        tmp_path, version=0, settings=GeneratorSection(cpu_cache_gib=0.05), max_prompt_tokens=40, max_response_tokens=30, lora=LORA
    )
    try:
        with pytest.raises(SettingsError, match=r"vLLM cannot start with model .*LoRA"):
            await sampler.start()
    finally:
        await sampler.close()


def test_a_warm_up_with_adapters_writes_a_whole_model(starting_model: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "warm")
    settings = {"model.path": output, "sft.start": str(starting_model), "sft.output": output, "sft.steps": 4, "sft.batch_rows": 8}
    result = oprime("sft", str(DEMO), *sets({**settings, "sft.lora.rank": 4, "tasks.chain.operations": 2}))
    assert result.returncode == 0, result.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (starting_model, tmp_path / "warm"))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in after if "_proj" in name}
