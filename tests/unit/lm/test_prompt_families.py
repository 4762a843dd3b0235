"""Responses that share their prompt's computation have the log-probs that each has alone."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from oprime.core.prompt_families import Block, PromptFamily, lay_out
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import random_causal_lm

SIZES: dict[str, Any] = {
    "vocab_size": 54, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
MODELS = {
    "qwen2": Qwen2Config(**SIZES),
    "grouped queries": Qwen3Config(**{**SIZES, "num_key_value_heads": 1}),
    "llama": LlamaConfig(**SIZES),
    "learned positions": GPT2Config(vocab_size=54, n_embd=64, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1),
    "window": MistralConfig(**SIZES, sliding_window=9),
    "state space": Lfm2Config(**SIZES, full_attn_idxs=[1]),
}


def family(prompt: list[int], *responses: list[int]) -> PromptFamily:
    ids = [np.asarray(part, dtype=np.int32) for part in (prompt, *responses)]
    return PromptFamily(prompt_ids=ids[0], responses=tuple(ids[1:]))


FAMILIES = [
    family([2, 3, 4, 5, 6], [8, 9], [10], [11, 12], [13, 14, 15, 16]),
    family([7], [8, 9, 10]),
    family([20, 21], [22, 23, 24, 25, 26, 27, 28, 29, 30], [31]),
    family([9], [12, 11, 10]),
]


@pytest.mark.parametrize("name", MODELS)
def test_a_family_has_the_log_probs_of_its_rows_alone(name: str) -> None:
    plain = random_causal_lm(MODELS[name], 0)
    found = FrozenModel(random_causal_lm(MODELS[name], 0), chunk_tokens=3).family_logprobs(FAMILIES, pad_id=0, most_tokens=16)
    for one, values in zip(FAMILIES, found, strict=True):
        for response, ours in zip(one.responses, values, strict=True):
            ids = torch.tensor([[*one.prompt_ids.tolist(), *response.tolist()]])
            logprobs = plain(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            expected = logprobs.gather(-1, ids[0, 1:, None])[len(one.prompt_ids) - 1 :, 0]
            torch.testing.assert_close(ours, expected.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "shares"), [("qwen2", True), ("window", True), ("state space", False)])
def test_the_backbone_sees_a_shared_prompt_once(name: str, shares: bool) -> None:
    causal_lm = random_causal_lm(MODELS[name], 0)
    model = FrozenModel(causal_lm, chunk_tokens=3)
    seen: list[int] = []
    causal_lm.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[:-1].numel()))
    model.family_logprobs(FAMILIES[:1], pad_id=0, most_tokens=100)
    assert model.shares(5, 4) is shares
    # Five of the prompt and all but the last of each response; or rows of nine.
    assert seen == [5 + 1 + 0 + 1 + 3 if shares else 4 * 9]


def test_eager_attention_shares_nothing() -> None:
    assert not FrozenModel(random_causal_lm(MODELS["qwen2"], 0, attention="eager"), chunk_tokens=3).shares(1, 1)


def test_a_layout_has_each_prompt_once_and_the_place_before_each_response_token() -> None:
    layout = lay_out([family([5, 6], [7, 8], [9]), family([1], [2, 3])])
    # The prompt 5 6 and the single row 1 2, which are equally long. Then nothing of the response 9, and 7 of the response 7 8.
    assert layout.token_ids.tolist() == [5, 6, 1, 2, 7]
    assert layout.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert layout.blocks == (
        Block(pieces=2, tokens=2),
        Block(pieces=1, tokens=0, after=0, prompts=(0,)),
        Block(pieces=1, tokens=1, after=0, prompts=(0,)),
    )
    assert layout.before.tolist() == [1, 4, 1, 2, 3]


def test_pieces_of_equal_length_stand_together_across_families() -> None:
    layout = lay_out([family([5, 6], [7, 8], [9, 1]), family([2], [3, 3], [4, 4]), family([1, 2], [4, 4], [5, 5, 5])])
    assert layout.blocks == (
        Block(pieces=1, tokens=1),
        Block(pieces=2, tokens=2),
        Block(pieces=2, tokens=1, after=0, prompts=(0, 0)),
        Block(pieces=3, tokens=1, after=1, prompts=(0, 0, 1)),
        Block(pieces=1, tokens=2, after=1, prompts=(1,)),
    )
    assert layout.token_ids.tolist() == [2, 5, 6, 1, 2, 3, 4, 7, 9, 4, 5, 5]


@pytest.mark.parametrize("bad", [family([], [1]), family([1]), family([1], [2], [])])
def test_an_empty_part_of_a_family_is_refused(bad: PromptFamily) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        lay_out([bad])
