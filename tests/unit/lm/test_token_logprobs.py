"""Chunked log-probs equal the plain ones, in value and gradient, and never hold tokens x vocabulary."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CohereConfig, Gemma2Config, GPTNeoXConfig, GraniteConfig, Qwen2Config, Qwen2ForCausalLM

from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.chunked_logprobs import LogitTransform
from oprime.lm.models import count_parameters, disable_dropout, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobHead, TokenLogprobModel
from oprime.runtime.errors import SettingsError

SIZES: dict[str, Any] = {
    "vocab_size": 54,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
FAMILIES = {
    "plain": Qwen2Config(**SIZES),
    "tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "scaled (Cohere)": CohereConfig(**SIZES, logit_scale=0.0625),
    "divided (Granite)": GraniteConfig(**SIZES, logits_scaling=8.0),
    "capped (Gemma 2)": Gemma2Config(**SIZES, final_logit_softcapping=0.05),
    "other backbone name (GPT-NeoX)": GPTNeoXConfig(**SIZES),
}
ROWS = token_rows([[2, 3, 4], [5], [6, 7]], [[8, 9], [10, 11, 12, 13, 14], [15]], pad_id=0)
WEIGHTS = torch.linspace(-1, 1, ROWS.is_trained.numel()).reshape(ROWS.is_trained.shape)


def plain_logprobs(model: Any, rows: TokenRows, temperature: float = 1.0) -> Tensor:
    """The obvious way: all logits, log-softmax, pick."""
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask.long(), use_cache=False).logits
    picked = (logits / temperature).log_softmax(-1)[:, :-1].gather(-1, rows.input_ids[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(picked, (1, 0)) * rows.is_trained


def run(model: TokenLogprobModel, rows: TokenRows) -> Tensor:
    return model(rows.input_ids, rows.attention_mask, rows.is_trained)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(("family", "chunk_tokens"), [*((family, 3) for family in FAMILIES), ("tied", 1), ("tied", 8), ("tied", 100)])
def test_values_and_gradients_are_those_of_the_full_log_softmax(family: str, chunk_tokens: int) -> None:
    causal_lm = random_causal_lm(FAMILIES[family], 0)
    expected = plain_logprobs(causal_lm, ROWS)
    (expected * WEIGHTS).sum().backward()
    expected_gradients = gradients(causal_lm)

    ours = run(TokenLogprobModel(causal_lm, chunk_tokens), ROWS)
    (ours * WEIGHTS).sum().backward()
    our_gradients = gradients(causal_lm)

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert our_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("temperature", [0.6, 1.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_after_temperature_are_those_of_the_divided_logits(family: str, temperature: float) -> None:
    causal_lm = random_causal_lm(FAMILIES[family], 0)
    expected = plain_logprobs(causal_lm, ROWS, temperature)
    (expected * WEIGHTS).sum().backward()
    expected_gradients = gradients(causal_lm)
    ours = run(TokenLogprobModel(causal_lm, 3, temperature=temperature), ROWS)
    (ours * WEIGHTS).sum().backward()
    our_gradients = gradients(causal_lm)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert our_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-5, atol=1e-6)


def test_log_probs_need_a_temperature_above_0() -> None:
    with pytest.raises(ValueError, match=r"temperature is 0\.0: log-probs need one above 0"):
        TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0), 3, temperature=0.0)


def test_a_head_with_a_bias_counts_it() -> None:
    causal_lm = random_causal_lm(FAMILIES["plain"], 0)
    causal_lm.lm_head = torch.nn.Linear(64, 54, bias=True)
    expected = plain_logprobs(causal_lm, ROWS)
    (expected * WEIGHTS).sum().backward()
    expected_gradient = gradients(causal_lm)["lm_head.bias"]
    ours = run(TokenLogprobModel(causal_lm, 3), ROWS)
    (ours * WEIGHTS).sum().backward()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients(causal_lm)["lm_head.bias"], expected_gradient, rtol=0, atol=1e-6)


def test_tokens_outside_the_response_are_exactly_zero() -> None:
    ours = run(TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0), 3), ROWS)
    assert torch.equal(ours != 0, ROWS.is_trained)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(attention: Any) -> None:
    model = TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0, attention=attention), 3)
    wide = token_rows([[2, 3, 4], [5], [6, 7], [1]], [[8, 9], [10, 11, 12, 13, 14], [15], [16] * 19], pad_id=33)
    alone = token_rows([[2, 3, 4]], [[8, 9]], pad_id=0)
    expected = run(model, ROWS)
    torch.testing.assert_close(run(model, wide)[:3, : expected.shape[1]], expected, rtol=0, atol=1e-6)
    assert not run(model, wide)[:3, expected.shape[1] :].any()
    torch.testing.assert_close(run(model, alone)[0], expected[0, :5], rtol=0, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any result of an operation had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


def largest(tokens: int, chunk_tokens: int, vocabulary: int) -> int:
    config = Qwen2Config(**{**SIZES, "vocab_size": vocabulary, "hidden_size": 8, "intermediate_size": 8, "head_dim": 4})
    model = TokenLogprobModel(random_causal_lm(config, 0), chunk_tokens)
    rows = token_rows([[1]], [[2] * tokens], pad_id=0)
    with LargestTensor() as recorder:
        run(model, rows).sum().backward()
    return recorder.elements


def test_tokens_times_vocabulary_never_exists_forward_or_backward() -> None:
    tokens, vocabulary, chunk_tokens = 120, 4000, 10
    assert largest(tokens, chunk_tokens, vocabulary) == max(chunk_tokens * vocabulary, vocabulary * 8)
    assert largest(tokens, tokens, vocabulary) == tokens * vocabulary, "the recorder must see it when it is there"


@pytest.mark.parametrize("tied", [True, False])
def test_no_response_token_gives_zeros_and_a_gradient_of_zero_for_every_weight(tied: bool) -> None:
    model = TokenLogprobModel(random_causal_lm(Qwen2Config(**SIZES, tie_word_embeddings=tied), 0), 3)
    rows = token_rows([[1, 2]], [[]], pad_id=0)
    ours = run(model, rows)
    ours.sum().backward()
    assert not ours.any()
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(not gradient.any() for gradient in found.values())


def test_dropout_is_off_in_training() -> None:
    causal_lm = random_causal_lm(Qwen2Config(**SIZES, attention_dropout=0.5), 0)
    model = TokenLogprobModel(causal_lm, 3)
    assert torch.equal(run(model.train(), ROWS), run(model.eval(), ROWS))


def test_dropout_would_be_seen() -> None:
    causal_lm = Qwen2ForCausalLM(Qwen2Config(**SIZES, attention_dropout=0.5)).train()
    first, second = plain_logprobs(causal_lm, ROWS), plain_logprobs(causal_lm, ROWS)
    assert not torch.equal(first, second)
    disable_dropout(causal_lm)
    assert torch.equal(plain_logprobs(causal_lm, ROWS), plain_logprobs(causal_lm, ROWS))


def test_gradient_checkpointing_computes_the_same() -> None:
    found: list[dict[str, Tensor]] = []
    for gradient_checkpointing in (False, True):
        model = TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0, gradient_checkpointing=gradient_checkpointing), 3).train()
        run(model, ROWS).sum().backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    causal_lm = random_causal_lm(FAMILIES["plain"], 0)
    exact = run(TokenLogprobModel(causal_lm, 3), ROWS)
    half = TokenLogprobModel(causal_lm.bfloat16(), 3)
    ours = run(half, ROWS)
    ours.sum().backward()
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, ours.bfloat16().float())
    torch.testing.assert_close(ours, exact, rtol=0, atol=0.05)
    assert {gradient.dtype for gradient in gradients(half).values()} == {torch.bfloat16}


def test_a_frozen_model_gives_values_without_gradient() -> None:
    causal_lm = random_causal_lm(FAMILIES["plain"], 0).requires_grad_(False)
    ours = run(TokenLogprobModel(causal_lm, 3), ROWS)
    assert not ours.requires_grad


def test_the_head_shares_its_weight_with_the_model() -> None:
    causal_lm = random_causal_lm(FAMILIES["plain"], 0)
    model = TokenLogprobModel(causal_lm, 3)
    assert model.head.weight is causal_lm.lm_head.weight
    assert count_parameters(model) == count_parameters(causal_lm)


def test_a_response_at_the_first_position_is_refused() -> None:
    model = TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0), 3)
    with pytest.raises(ValueError, match="position 0"):
        model(ROWS.input_ids, ROWS.attention_mask, ROWS.attention_mask)


def test_a_chunk_needs_a_token() -> None:
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        TokenLogprobModel(random_causal_lm(FAMILIES["plain"], 0), 0)


class SquaredLogits(Qwen2ForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output: Any = super().forward(*args, **kwargs)
        output.logits = output.logits * output.logits.abs()
        return output


def test_a_model_that_bends_its_logits_in_an_unknown_way_is_refused() -> None:
    with pytest.raises(SettingsError, match="SquaredLogits changes its logits after lm_head"):
        TokenLogprobModel(SquaredLogits(Qwen2Config(**SIZES)), 3)


class ScaledHidden(Qwen2ForCausalLM):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.lm_head.register_forward_pre_hook(lambda _module, inputs: (inputs[0] / 3,))


def test_a_model_that_changes_its_hidden_states_before_the_head_is_refused() -> None:
    with pytest.raises(SettingsError, match="ScaledHidden changes its hidden states between its layers and lm_head"):
        TokenLogprobModel(ScaledHidden(Qwen2Config(**SIZES)), 3)


def test_a_model_without_a_linear_head_is_refused() -> None:
    causal_lm = random_causal_lm(FAMILIES["plain"], 0)
    causal_lm.lm_head = torch.nn.Sequential(causal_lm.lm_head)
    with pytest.raises(SettingsError, match="linear lm_head"):
        TokenLogprobModel(causal_lm, 3)


class Operations(TorchDispatchMode):
    """Names what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("chunk_tokens", "at_once"), [(1, False), (4, True)])
def test_a_pass_that_nothing_learns_from_takes_all_logits_at_once_where_they_are_few(chunk_tokens: int, at_once: bool) -> None:
    # Twice 10,000 logits are more than one chunk of 8,192, and less than four.
    dice = torch.Generator().manual_seed(0)
    hidden, token_ids = torch.randn(2, 8, generator=dice), torch.tensor([7, 4999])
    ours = TokenLogprobHead(nn.Linear(8, 5000), LogitTransform(), chunk_tokens)
    in_blocks = ours(hidden, token_ids)
    with torch.inference_mode(), Operations() as computed:
        found = ours(hidden, token_ids)
    torch.testing.assert_close(found, in_blocks.detach(), rtol=0, atol=1e-5)
    assert ("aten::cross_entropy_loss" in computed.names) is at_once
