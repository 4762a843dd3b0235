"""Adapters: what they compute, merged weights, models that share memory, adapters as files."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, PreTrainedModel

from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import (
    adapted_layers,
    adapter_files,
    adapter_shapes,
    add_adapter,
    fingerprint,
    in_adapter_file,
    load_adapter,
    merged,
    require_base,
    twin,
)
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.errors import SettingsError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection
from tiny_adapters import moved, trained, write_adapter
from tiny_models import tiny_model

LORA = LoraSection(rank=4, alpha=6.0)
PROMPTS, RESPONSES = ([3, 4, 5], [6]), ([7, 8, 9, 10], [11, 12])


def rows() -> TokenRows:
    return token_rows(PROMPTS, RESPONSES, pad_id=0)


def logprobs(model: PreTrainedModel) -> Tensor:
    given = rows()
    return TokenLogprobModel(model, 8)(given.input_ids, given.attention_mask, given.is_trained)


def written(tmp_path: Path, seed: int = 0) -> Path:
    directory = tmp_path / f"base-{seed}"
    tiny_model(seed).save_pretrained(directory)
    return directory


def test_new_adapters_change_nothing_and_are_all_that_is_trained() -> None:
    plain, adapted = tiny_model(), add_adapter(tiny_model(), LORA, seed=0)
    torch.testing.assert_close(logprobs(adapted), logprobs(plain), rtol=0, atol=0)
    # Two layers of seven linear maps each, A and B.
    assert len(trained(adapted)) == 2 * 7 * 2
    assert all(".lora_" in name for name in trained(adapted))


def test_adapters_are_drawn_from_their_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (trained(add_adapter(tiny_model(), LORA, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lora", [LORA, LoraSection(rank=4, alpha=6.0, rslora=True), LoraSection(rank=2, targets=("q_proj", "down_proj"))])
def test_log_probs_and_gradients_are_those_of_plain_peft(lora: LoraSection) -> None:
    ours = moved(add_adapter(tiny_model(), lora, seed=0))
    peft = get_peft_model(
        tiny_model(),
        LoraConfig(
            r=lora.rank, lora_alpha=cast("int", lora.alpha), use_rslora=lora.rslora, target_modules=list(lora.targets) or "all-linear"
        ),
    )
    theirs = {name.removeprefix("base_model.model."): parameter for name, parameter in trained(peft).items()}
    assert theirs.keys() == trained(ours).keys()
    with torch.no_grad():
        for name, parameter in trained(ours).items():
            theirs[name].copy_(parameter)
    weight = torch.tensor([[0.0] * 3 + [1.0, -2.0, 0.5, 3.0], [0.0, 0.7, -1.0] + [0.0] * 4])
    given = rows()
    logits = peft(input_ids=given.input_ids, attention_mask=given.attention_mask.long()).logits.log_softmax(-1)
    expected = logits[:, :-1].gather(-1, given.input_ids[:, 1:, None]).squeeze(-1)
    found = logprobs(ours)
    torch.testing.assert_close(found[:, 1:], expected * given.is_trained[:, 1:], rtol=0, atol=1e-5)
    (found * weight).sum().backward()
    (expected * weight[:, 1:]).sum().backward()
    for name, parameter in trained(ours).items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)


def test_merged_weights_compute_the_same_under_the_names_that_the_model_had() -> None:
    plain, adapted = tiny_model(), moved(add_adapter(tiny_model(), LORA, seed=0))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    found = dict(merged(adapted, adapted.named_parameters()))
    assert found.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())
    assert float((logprobs(adapted) - logprobs(plain)).detach().abs().max()) > 0.1
    plain.load_state_dict(found)
    torch.testing.assert_close(logprobs(plain), logprobs(adapted), rtol=0, atol=1e-5)


def test_layers_that_hold_their_weight_transposed_are_merged_so() -> None:
    config = GPT2Config(vocab_size=54, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    adapted = moved(add_adapter(random_causal_lm(config, 0), LORA, seed=0))
    plain = random_causal_lm(config, 0)
    plain.load_state_dict(dict(merged(adapted, adapted.named_parameters())), strict=False)
    torch.testing.assert_close(logprobs(plain), logprobs(adapted), rtol=0, atol=1e-5)


def test_a_model_without_adapters_is_merged_as_it_is() -> None:
    model = tiny_model()
    assert all(one is other for (_, one), (_, other) in zip(merged(model, model.named_parameters()), model.named_parameters(), strict=True))


def test_twins_share_their_weights_and_nothing_else() -> None:
    model = tiny_model()
    other = twin(model)
    expected = logprobs(model)
    moved(add_adapter(model, LORA, seed=0))
    assert not adapted_layers(other)
    base = {name.replace(".base_layer.", "."): parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert all(base[name] == parameter.data_ptr() for name, parameter in other.named_parameters())
    torch.testing.assert_close(FrozenModel(other, chunk_tokens=8).logprobs(rows()), expected, rtol=0, atol=0)
    # A new type, as DeepSpeed gives a model, is given to both.
    model.bfloat16()
    assert {parameter.dtype for parameter in other.parameters()} == {torch.bfloat16}


def test_a_published_adapter_loads_in_plain_peft_and_here(tmp_path: Path) -> None:
    base = written(tmp_path)
    adapted = moved(add_adapter(load_causal_lm(base), LoraSection(rank=4, alpha=6.0, rslora=True), seed=0))
    directory = write_adapter(adapted, base, tmp_path / "adapter")
    peft = PeftModel.from_pretrained(load_causal_lm(base), str(directory))
    given = rows()
    with torch.no_grad():
        theirs = peft(input_ids=given.input_ids, attention_mask=given.attention_mask.long()).logits
        mine = adapted(input_ids=given.input_ids, attention_mask=given.attention_mask.long()).logits
    torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)
    torch.testing.assert_close(logprobs(load_adapter(load_causal_lm(base), directory)), logprobs(adapted), rtol=0, atol=0)
    assert json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    of_the_hub = json.loads(adapter_files(adapted, base, "Qwen/Qwen2.5-0.5B")["adapter_config.json"])
    assert of_the_hub["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B"
    shapes = adapter_shapes(base, LoraSection(rank=4))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in in_adapter_file(trained(adapted).items())}


def test_an_adapter_of_another_rank_or_model_is_refused(tmp_path: Path) -> None:
    base, other = written(tmp_path), written(tmp_path, seed=1)
    directory = write_adapter(add_adapter(tiny_model(), LORA, seed=0), base, tmp_path / "adapter")
    require_base(directory, fingerprint(base), base)
    with pytest.raises(WeightsRefusedError, match=rf"belongs to {base} \(fingerprint .*, but the model here is {other} "):
        require_base(directory, fingerprint(other), other)
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(WeightsRefusedError, match=r"does not fit Qwen2ForCausalLM .*lora_A.weight should be \(8, 96\) and is \(4, 96\)"):
        load_adapter(tiny_model(), directory)


def test_an_adapter_is_no_model_to_start_from(tmp_path: Path) -> None:
    base = written(tmp_path)
    directory = write_adapter(add_adapter(tiny_model(), LORA, seed=0), base, tmp_path / "adapter")
    with pytest.raises(SettingsError, match="adapter is an adapter, not a whole model: put it on the model that it belongs to"):
        load_causal_lm(directory)


def test_adapters_learn_below_layers_whose_activations_are_computed_again() -> None:
    gradients: list[dict[str, Tensor | None]] = []
    for checkpointing in (False, True):
        model = random_causal_lm(tiny_model().config, 0, gradient_checkpointing=checkpointing)
        moved(add_adapter(model, LORA, seed=0)).train()
        logprobs(model).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in trained(model).items()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_the_fingerprint_is_that_of_the_weights_however_they_are_spread(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "many")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("q_prj", "lora.targets names q_prj, which is no linear layer of Qwen2ForCausalLM: it has down_proj, gate_proj"),
        ("embed_tokens", "lora.targets names embed_tokens, which is no linear layer"),
        ("lm_head", "lora.targets names lm_head, the output head"),
    ],
)
def test_targets_that_cannot_have_adapters_are_refused(target: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        add_adapter(tiny_model(), LoraSection(rank=4, targets=(target,)), seed=0)


def test_settings_of_adapters_without_a_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha without rank, which is 0: all weights are trained; set rank=16"):
        LoraSection(alpha=16.0)
    assert LoraSection(rank=16, alpha=32.0).scale == 2.0
    assert LoraSection(rank=16, alpha=32.0, rslora=True).scale == 8.0
