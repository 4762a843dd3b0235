"""Models that also take images or sound (Gemma 3, Gemma 3n, Qwen3.5): their text model is trained, all else stays as it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from more_than_text import FAMILIES, gemma_3n, is_beside_text, published, qwen_3_5, with_more
from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.lora import adapted_layers, add_adapter, require_published_under_own_names
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.errors import SettingsError
from oprime.runtime.training_settings import LoraSection

ROWS = token_rows([[2, 3, 4, 5], [8, 9], [2, 3, 4, 5], [11]], [[12, 13, 14], [15, 16, 17, 18, 19], [34, 35, 36, 37], [38, 39]], pad_id=0)


PACKED = ("Gemma 3n, text alone", "Gemma 3n", "Gemma 3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, PreTrainedModel]]:
    """A directory of each family, and transformers' own model."""
    found: dict[str, tuple[Path, PreTrainedModel]] = {}
    for name, make in FAMILIES.items():
        directory = tmp_path_factory.mktemp("model")
        found[name] = (directory, make(directory))
    return found


Made = dict[str, tuple[Path, PreTrainedModel]]


def of_rows(model: TokenLogprobModel, rows: TokenRows = ROWS) -> Tensor:
    return model(rows.input_ids, rows.attention_mask, rows.is_trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_transformers_on_each_row_alone(family: str, made: Made) -> None:
    directory, theirs = made[family]
    model = TokenLogprobModel(load_causal_lm(directory), 8).train()
    assert (not model.packing.refusal) == (family in PACKED)
    found = of_rows(model)
    found.square().sum().backward()
    theirs.zero_grad()
    for place in range(len(ROWS.input_ids)):
        ids = ROWS.input_ids[place][ROWS.attention_mask[place]]
        logprobs = theirs(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None]).squeeze(-1)
        own = logprobs[ROWS.is_trained[place][1 : len(ids)]]
        torch.testing.assert_close(found[place][ROWS.is_trained[place]], own, rtol=0, atol=1e-5)
        own.square().sum().backward()
    expected = {in_text(name): parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    gradients = {in_text(name): parameter.grad for name, parameter in model.causal_lm.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1.0
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * largest, msg=lambda text, name=name: f"{name}: {text}")


def in_text(name: str) -> str:
    return name.replace(".language_model.", ".")


@pytest.mark.parametrize("family", FAMILIES)
def test_versions_have_all_that_the_files_have_and_new_weights_for_text(family: str, made: Made) -> None:
    directory, _ = made[family]
    files = load_file(directory / "model.safetensors")
    model = TokenLogprobModel(load_causal_lm(directory), 8)
    assert_equal(published(model), files)
    with torch.no_grad():
        for parameter in model.causal_lm.parameters():
            parameter.add_(float(parameter.requires_grad))
    after = published(model)
    assert after.keys() == files.keys()
    same = {name for name, tensor in files.items() if torch.equal(after[name], tensor)}
    assert same == {name for name in files if is_beside_text(name)}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_go_on_the_layers_that_text_passes(family: str, made: Made) -> None:
    lora = LoraSection(rank=2, alpha=4.0)
    model = TokenLogprobModel(add_adapter(load_causal_lm(made[family][0]), lora, seed=0), 8)
    of_rows(model).sum().backward()
    assert adapted_layers(model.causal_lm)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "alone" not in name])
def test_adapters_are_not_published_under_names_that_samplers_do_not_know(family: str, made: Made) -> None:
    model = add_adapter(load_causal_lm(made[family][0]), LoraSection(rank=2), seed=0)
    with pytest.raises(SettingsError, match=r"so samplers could not tell what an adapter belongs to: set learner\.lora\.publish=merged"):
        require_published_under_own_names(model, "learner.lora")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_can_be_a_critic_of_text(family: str, made: Made) -> None:
    critic = TokenValueModel(load_causal_lm(made[family][0]))
    assert critic(ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained).shape == ROWS.input_ids.shape
    assert not any("vision" in name for name, _ in critic.named_parameters())


def test_text_weights_that_are_missing_are_still_missed(tmp_path: Path) -> None:
    qwen_3_5(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if ".layers.1.mlp.up_proj" not in name}, file, {"format": "pt"})
    with pytest.raises(SettingsError, match=r"lacks weights of its architecture: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(tmp_path)


def test_weights_that_no_architecture_knows_are_still_refused(tmp_path: Path) -> None:
    gemma_3n(tmp_path)
    with_more(tmp_path, {"model.language_model.layers.9.odd.weight": torch.ones(2)})
    with pytest.raises(SettingsError, match=r"has weights that its architecture does not know: .*layers\.9\.odd\.weight"):
        load_causal_lm(tmp_path)
