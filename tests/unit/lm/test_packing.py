"""Packed rows compute what padded rows compute, or are not used."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPTNeoXConfig, Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from oprime.core.prompt_families import Block, PromptFamily
from oprime.core.token_rows import TokenRows, ragged, token_rows, token_rows_of
from oprime.lm.models import random_causal_lm
from oprime.lm.packing import ATTENTION, at_responses, attention_runs, choose_packing, hidden_before_response
from oprime.lm.token_logprobs import TokenLogprobModel
from rollouts import in_turns, single_turn
from tiny_models import plain_logprobs

SIZES: dict[str, Any] = {
    "vocab_size": 54, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
FAMILIES = {
    "qwen2": Qwen2Config(**SIZES),
    "grouped queries": Qwen3Config(**{**SIZES, "num_key_value_heads": 1}),
    "llama": LlamaConfig(**SIZES),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "learned positions": GPT2Config(vocab_size=54, n_embd=64, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1),
    "window": MistralConfig(**SIZES, sliding_window=20),
}
# Two rollouts of equal length side by side, the others alone: attention runs on both kinds of runs.
ROWS = token_rows([[2, 3, 4], [5], [6, 7], [9]], [[8, 9], [10, 11, 12, 13, 14], [15, 16, 17], [18, 19, 20, 21]], pad_id=0)
IN_TURNS = [in_turns(single_turn(1, index, [2, 3, 4], list(range(10, 10 + length)))) for index, length in enumerate((6, 1, 4, 5))]
WEIGHTS = torch.linspace(-1, 1, 100).reshape(10, 10)


def outputs_and_gradients(config: Any, rows: TokenRows, *, packing: bool, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model = TokenLogprobModel(random_causal_lm(config, 0, **options), 3, packing=packing).train()
    assert bool(model.packing.refusal) != packing
    logprobs = model(rows.input_ids, rows.attention_mask, rows.is_trained)
    (logprobs * WEIGHTS[: logprobs.shape[0], : logprobs.shape[1]]).sum().backward()
    return logprobs.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_rows_give_the_same_values_and_gradients(family: str) -> None:
    config = FAMILIES[family]
    assert_same(outputs_and_gradients(config, ROWS, packing=True), outputs_and_gradients(config, ROWS, packing=False))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_of_a_models_turns_are_those_of_a_plain_pass_over_all_tokens(family: str, packing: bool) -> None:
    # Tools wrote between the turns and after the last one: they are read, and have no log-probs of their own.
    assert any(len(rollout.segments) > 3 for rollout in IN_TURNS)
    rows = token_rows_of([one.token_ids for one in IN_TURNS], [one.is_trained for one in IN_TURNS], pad_id=0)
    found = logprobs(FAMILIES[family], rows, packing=packing)
    assert not found[~rows.is_trained].any()
    for ours, rollout in zip(ragged(found, rows.is_trained), IN_TURNS, strict=True):
        torch.testing.assert_close(ours, plain_logprobs(random_causal_lm(FAMILIES[family], 0), rollout), rtol=0, atol=1e-5)


def test_checkpointed_activations_of_packed_rows_give_the_same_gradients() -> None:
    config = FAMILIES["grouped queries"]
    expected = outputs_and_gradients(config, ROWS, packing=False)
    assert_same(outputs_and_gradients(config, ROWS, packing=True, gradient_checkpointing=True), expected)


def test_the_backbone_sees_only_the_tokens_that_there_are() -> None:
    seen: list[torch.Size] = []
    for packing in (True, False):
        causal_lm = random_causal_lm(FAMILIES["qwen2"], 0)
        model = TokenLogprobModel(causal_lm, 3, packing=packing)
        causal_lm.get_submodule("model.layers.0.mlp").register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
        model(ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained)
    # The last token of each rollout predicts nothing.
    assert seen == [(1, int(ROWS.attention_mask.sum()) - len(ROWS.input_ids), 64), (*ROWS.input_ids.shape, 64)]
    assert seen[0].numel() < seen[1].numel()


SIBLINGS = token_rows(
    [[2, 3, 4, 5], [6, 7, 8], [2, 3, 4, 5], [6, 7, 8], [2, 3, 4, 5], [9, 1], [2, 3, 4, 5], [6, 7, 8], [2, 3, 4, 5]],
    [[8, 9], [10], [10, 11], [12, 13, 14, 15], [12], [16, 17], [8, 9], [18, 19, 20, 21], [16, 17, 18]],
    pad_id=0,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_siblings_train_as_each_of_them_alone_though_their_prompt_is_computed_once(family: str) -> None:
    config = FAMILIES[family]
    assert_same(outputs_and_gradients(config, SIBLINGS, packing=True), outputs_and_gradients(config, SIBLINGS, packing=False))


def test_siblings_train_alike_under_checkpointed_activations() -> None:
    config = FAMILIES["grouped queries"]
    expected = outputs_and_gradients(config, SIBLINGS, packing=False)
    assert_same(outputs_and_gradients(config, SIBLINGS, packing=True, gradient_checkpointing=True), expected)


def test_the_backbone_sees_the_prompt_of_siblings_once_wherever_they_stand() -> None:
    assert computed_tokens(SIBLINGS) == (4 + 1 + 1 + 0 + 1 + 2) + (3 + 0 + 3 + 3) + (2 + 1)


def test_a_prompt_that_saves_next_to_nothing_is_not_shared() -> None:
    rows = token_rows([[2], [2]], [list(range(5, 25)), list(range(6, 26))], pad_id=0)
    assert computed_tokens(rows) == 2 * 20


def test_siblings_whose_mask_would_be_too_large_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oprime.lm.packing._MOST_MASKED", 3 * 6 - 1)
    rows = token_rows([[2, 3, 4]] * 2, [[5, 6, 7], [8, 9, 10]], pad_id=0)
    assert computed_tokens(rows) == 2 * 5


def test_rows_without_anything_trained_beside_siblings_get_no_log_probs() -> None:
    rows = token_rows_of([[2, 3, 4], [2, 3, 5, 6], [2, 3, 7]], [[False] * 3, [False, False, True, False], [False, False, True]], pad_id=0)
    found = logprobs(FAMILIES["qwen2"], rows, packing=True)
    torch.testing.assert_close(found, logprobs(FAMILIES["qwen2"], rows, packing=False), rtol=0, atol=1e-5)
    # What stands after the last trained token is not computed either.
    assert computed_tokens(rows) == 2
    nothing = token_rows_of([[2, 3, 4]], [[False] * 3], pad_id=0)
    assert not logprobs(FAMILIES["qwen2"], nothing, packing=True).any()


def computed_tokens(rows: TokenRows) -> int:
    causal_lm = random_causal_lm(FAMILIES["qwen2"], 0)
    model = TokenLogprobModel(causal_lm, 3)
    seen: list[int] = []
    causal_lm.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[:-1].numel()))
    model(rows.input_ids, rows.attention_mask, rows.is_trained)
    (tokens,) = seen
    return tokens


def test_a_model_whose_tokens_meet_outside_of_attention_keeps_padded_rows() -> None:
    packing = choose_packing(random_causal_lm(Lfm2Config(**SIZES, full_attn_idxs=[1]), 0))
    assert "lets packed rollouts see each other" in packing.refusal
    assert not packing.fits([1])


def test_a_model_that_ignores_positions_given_to_it_keeps_padded_rows() -> None:
    causal_lm = random_causal_lm(FAMILIES["qwen2"], 0)

    def count_on(_module: Any, _arguments: Any, options: dict[str, Any]) -> Any:
        return _arguments, options | {"position_ids": torch.arange(options["input_ids"].shape[1])[None] ** 2}

    causal_lm.base_model.register_forward_pre_hook(count_on, with_kwargs=True)
    assert "computes something else on packed rows" in choose_packing(causal_lm).refusal


def test_eager_attention_keeps_padded_rows() -> None:
    causal_lm = random_causal_lm(FAMILIES["qwen2"], 0, attention="eager")
    assert "attention is eager" in choose_packing(causal_lm).refusal
    assert causal_lm.config._attn_implementation == "eager"


def test_rollouts_beyond_the_attention_window_run_in_padded_rows() -> None:
    config = MistralConfig(**SIZES, sliding_window=6)
    packing = choose_packing(random_causal_lm(config, 0))
    assert packing.longest == 6
    assert packing.fits([6, 5])
    assert not packing.fits([7, 1])
    long = token_rows([[2, 3, 4], [5]], [[8, 9, 10, 11, 12, 13], [10, 11]], pad_id=0)
    windowed, expected = logprobs(config, long, packing=True), logprobs(config, long, packing=False)
    torch.testing.assert_close(windowed, expected, rtol=0, atol=1e-6)
    free = logprobs(MistralConfig(**SIZES, sliding_window=None), long, packing=False)
    assert not torch.allclose(windowed, free, atol=1e-4), "the window must matter"


def logprobs(config: Any, rows: TokenRows, *, packing: bool) -> Tensor:
    model = TokenLogprobModel(random_causal_lm(config, 0), 3, packing=packing)
    return model(rows.input_ids, rows.attention_mask, rows.is_trained).detach()


def test_a_model_prepared_for_packing_still_takes_padded_rows_and_masks() -> None:
    causal_lm = random_causal_lm(FAMILIES["qwen2"], 0)
    left = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    expected = causal_lm(**left).logits[:, 2:]
    choose_packing(causal_lm)
    assert causal_lm.config._attn_implementation == ATTENTION
    torch.testing.assert_close(causal_lm(**left).logits[:, 2:], expected, rtol=0, atol=1e-6)


def test_pieces_of_similar_length_share_a_call_of_attention() -> None:
    # 3 rows of 5 for 12 tokens are 1.25 times as many; a fourth of 9 would be too many, and what sees other prompts has calls of its own.
    begin = [Block(pieces=1, tokens=length) for length in (3, 4, 5, 9)]
    blocks = [*begin, Block(pieces=2, tokens=1, after=0, prompts=(0, 0)), Block(pieces=1, tokens=1, after=1, prompts=(0,))]
    runs = attention_runs(blocks, torch.device("cpu"), pads=True)
    assert [(run.first, len(run.blocks), run.pieces) for run in runs] == [(0, 3, 3), (3, 1, 1), (4, 1, 2), (5, 1, 1)]
    assert runs[0].rows is not None
    assert runs[0].rows.tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]
    assert runs[0].slots is not None
    assert runs[0].slots.tolist() == [0, 1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    # Without padding each block has a call of its own.
    assert [len(run.blocks) for run in attention_runs(blocks, torch.device("cpu"))] == [1] * 6


def test_pieces_that_go_on_from_one_block_share_a_call_of_attention() -> None:
    begin = Block(pieces=2, tokens=3)
    lengths = ((4, (1,)), (5, (0, 1)), (0, (0,)), (9, (0,)))
    go_on = [Block(pieces=len(prompts), tokens=tokens, after=0, prompts=prompts) for tokens, prompts in lengths]
    runs = attention_runs([begin, *go_on], torch.device("cpu"), pads=True)
    # One without tokens stands alone, and one that is much longer too.
    assert [(run.first, len(run.blocks), run.pieces) for run in runs] == [(0, 1, 2), (1, 2, 3), (3, 1, 1), (4, 1, 1)]
    assert [None if run.prompts is None else run.prompts.tolist() for run in runs] == [None, [1, 0, 1], [0], [0]]
    assert runs[1].rows is not None
    assert runs[1].rows.tolist() == [0, 1, 2, 3, 3, *range(4, 14)]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_shares_a_call_has_the_values_that_it_has_in_a_call_of_its_own(name: str) -> None:
    model = TokenLogprobModel(random_causal_lm(FAMILIES[name], 0), 3).eval()
    ids = np.arange(4, 44, dtype=np.int32)
    families = [PromptFamily(prompt_ids=ids[:3], responses=(ids[10 : 10 + length],)) for length in (5, 9, 6, 8, 7, 16)]
    families += [PromptFamily(prompt_ids=ids[:size], responses=(ids[20:22], ids[22:25])) for size in (9, 10)]
    families += [
        PromptFamily(prompt_ids=ids[start : start + 4], responses=tuple(ids[10 : 10 + length] for length in (7, 1, 8, 9, 8)))
        for start in (0, 5)
    ]
    apart = model.of_families(families).detach()
    with torch.no_grad():
        together = model.of_families(families)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    assert len(together) == 51 + 2 * 5 + 2 * 33


def test_values_per_response_token_find_their_places() -> None:
    causal_lm = random_causal_lm(FAMILIES["qwen2"], 0)
    inputs = (ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained)
    hidden = hidden_before_response(causal_lm, choose_packing(causal_lm), *inputs)
    assert hidden.shape == (int(ROWS.is_trained.sum()), 64)
    placed = at_responses(torch.arange(1.0, len(hidden) + 1), ROWS.is_trained)
    assert placed[0].tolist() == [0, 0, 0, 1, 2, 0]
    assert placed[1].tolist() == [0, 3, 4, 5, 6, 7]
