"""A critic's value per response token, in value, gradient and names."""

import pytest
import torch
from transformers import GPTNeoXConfig, PreTrainedModel, Qwen2Config

from oprime.core.token_rows import token_rows, token_rows_of
from oprime.lm.models import random_causal_lm
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.errors import SettingsError
from tiny_models import tiny_model

ROWS = token_rows([[2, 3, 4], [5], [6, 7]], [[8, 9], [10, 11, 12, 13, 14], [15]], pad_id=0)
FAMILIES = {"Qwen2": Qwen2Config, "GPT-NeoX": GPTNeoXConfig}


def small(family: str, **more: float) -> PreTrainedModel:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    sizes = {"vocab_size": 54, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    return random_causal_lm(FAMILIES[family](**sizes, **heads, **more), 0)


def with_a_head(model: TokenValueModel) -> TokenValueModel:
    """A head that is not 0."""
    with torch.no_grad():
        model.value_head.weight.copy_(torch.linspace(-1, 1, model.value_head.in_features)[None])
        model.value_head.bias.fill_(0.25)
    return model


def run(model: TokenValueModel) -> torch.Tensor:
    return model(ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_is_the_head_on_the_hidden_state_before_its_token(family: str) -> None:
    model = with_a_head(TokenValueModel(small(family)))
    values = run(model)
    # One row at a time, without padding: the state after the prompt and s response tokens gives V of token s + 1.
    for row, (prompt, response) in enumerate([([2, 3, 4], [8, 9]), ([5], [10, 11, 12, 13, 14]), ([6, 7], [15])]):
        hidden = model.backbone(input_ids=torch.tensor([prompt + response[:-1]])).last_hidden_state[0, len(prompt) - 1 :]
        expected = hidden @ torch.linspace(-1, 1, 64) + 0.25
        torch.testing.assert_close(values[row, len(prompt) : len(prompt) + len(response)], expected, rtol=0, atol=1e-5)
    assert not values[~ROWS.is_trained].any()


def test_a_turn_after_a_tools_answer_is_valued_with_the_answer_in_view() -> None:
    # Prompt 2 3, turn 8, a tool's 20 21, turn 9: V of 8 is that after 3, V of 9 that after 21.
    model = with_a_head(TokenValueModel(tiny_model()))
    rows = token_rows_of([[2, 3, 8, 20, 21, 9]], [[False, False, True, False, False, True]], pad_id=0)
    hidden = model.backbone(input_ids=rows.input_ids).last_hidden_state[0]
    expected = hidden @ torch.linspace(-1, 1, 64) + 0.25
    values = model(rows.input_ids, rows.attention_mask, rows.is_trained)[0]
    torch.testing.assert_close(
        values, torch.stack([expected[i] if i in (1, 4) else torch.tensor(0.0) for i in range(-1, 5)]), rtol=0, atol=1e-5
    )


def test_the_last_token_has_no_say_in_its_own_value() -> None:
    model = with_a_head(TokenValueModel(tiny_model()))
    other = token_rows([[2, 3, 4]], [[8, 30]], pad_id=0)
    changed = model(other.input_ids, other.attention_mask, other.is_trained)
    torch.testing.assert_close(changed[0, 3:5], run(model)[0, 3:5], rtol=0, atol=1e-6)


def test_a_new_critic_says_0_and_learns_its_head_first() -> None:
    model = TokenValueModel(tiny_model())
    values = run(model)
    assert not values.any()
    (values - 1).square().sum().backward()
    gradients = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name, largest in gradients.items() if largest > 0} == {"value_head.weight", "value_head.bias"}


def test_names_are_those_of_the_backbone_and_there_is_no_vocabulary_head() -> None:
    names = {name for name, _ in TokenValueModel(tiny_model()).trained.named_parameters()}
    expected = {name.replace("model.", "backbone.", 1) for name, _ in tiny_model().named_parameters() if name.startswith("model.")}
    assert names == expected | {"value_head.weight", "value_head.bias"}


def test_dropout_is_off_in_training() -> None:
    model = with_a_head(TokenValueModel(small("Qwen2", attention_dropout=0.5))).train()
    assert torch.equal(run(model), run(model))


def test_in_bfloat16_the_head_still_sums_in_float32() -> None:
    values = run(with_a_head(TokenValueModel(tiny_model())).bfloat16())
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


def test_a_response_without_a_prompt_is_refused() -> None:
    is_trained = ROWS.is_trained.clone()
    is_trained[0, 0] = True
    with pytest.raises(ValueError, match="nothing precedes the first token"):
        TokenValueModel(tiny_model())(ROWS.input_ids, ROWS.attention_mask, is_trained)


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(SettingsError, match="Qwen2Model has no backbone apart from its head"):
        TokenValueModel(tiny_model().base_model)  # pyright: ignore[reportArgumentType]
