"""Models that also take images or sound: six services compute what the plain loop computes, and publish all that the files had."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from e2e.test_experts_through_services import (
    POSITIONS,
    QWEN_VOCABULARY,
    assert_services_equal_the_loop,
    qwen_tokenizer,
    tensors_in,
    warm_up,
)
from e2e.test_services_equal_the_plain_loop import Case
from more_than_text import FAMILIES, SIZES, is_beside_text
from oprime.tasks.chain_tokenizer import BEGIN, END, PAD, VOCABULARY, chain_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PARTS = {
    "Gemma 3": (".mlp.", ".self_attn."),
    "Gemma 3n": (".altup.", "embed_tokens_per_layer"),
    "Qwen3.5": (".linear_attn.", ".self_attn."),
}
"""What has to have learned too, by name."""


@pytest.mark.parametrize(
    ("family", "case"),
    [
        *[pytest.param(family, Case(), id=family) for family in PARTS],
        pytest.param("Gemma 3", Case(ranks=2, zero_stage=3), id="Gemma 3, 2 ranks, ZeRO 3"),
    ],
)
def test_weights_after_three_steps_agree_to_a_millionth(family: str, case: Case, tmp_path: Path) -> None:
    start = warmed_up(family, tmp_path / "start")
    for version in assert_services_equal_the_loop(start, case, tmp_path, PARTS[family]):
        assert_rest_is_as_it_was(version, start)


def assert_rest_is_as_it_was(version: Path, start: Path) -> None:
    found, before = load_file(version / "model.safetensors"), load_file(start / "model.safetensors")
    rest = [name for name in before if is_beside_text(name)]
    assert rest
    assert all(found[name].equal(before[name]) for name in rest)


def warmed_up(family: str, folder: Path) -> Path:
    new, output = folder / "new", folder / "warm"
    vocabulary = QWEN_VOCABULARY if family == "Qwen3.5" else VOCABULARY
    FAMILIES[family](new, SIZES | sizes_of(vocabulary))
    tokenizer_of(family).save_pretrained(new)
    warm_up(new, output)
    assert tensors_in(output) == tensors_in(new)
    assert_rest_is_as_it_was(output, new)
    return output


def sizes_of(vocabulary: tuple[str, ...]) -> dict[str, Any]:
    special = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    return {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.02,
        **{name: vocabulary.index(token) for name, token in special.items()},
    }


def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    return qwen_tokenizer() if family == "Qwen3.5" else chain_tokenizer(POSITIONS)
