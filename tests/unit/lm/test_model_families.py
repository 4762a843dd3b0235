"""What differs from one architecture to the next: rotary factors, where dropout is read, kinds of attention, the form of files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    OlmoeConfig,
    OPTConfig,
    PersimmonConfig,
    Phi3Config,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

from oprime.adapters.store_weights import StoreWeights
from oprime.core.token_rows import TokenRows, token_rows
from oprime.lm.file_names import is_held_otherwise, require_form_of_files
from oprime.lm.models import UNBOUNDED, load_causal_lm, longest_context, random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.errors import SettingsError
from oprime_generator.sampler import require_same_tensors, tensor_shapes

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
ORIGINAL = 16
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 16, "long_factor": [4.0] * 16, "partial_rotary_factor": 1.0,
    "factor": 4.0, "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
SHORT, LONG = list(range(2, 12)), list(range(2, 40))


def phi3(initializer_range: float = 0.2) -> Phi3Config:
    # It is normalised where it is read.
    rope: Any = dict(LONGROPE)
    return Phi3Config(**SIZES, original_max_position_embeddings=ORIGINAL, rope_parameters=rope, initializer_range=initializer_range)


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("longrope")
    AutoModelForCausalLM.from_config(phi3(), attn_implementation="sdpa").save_pretrained(directory)
    return directory


def of_rows(model: TokenLogprobModel, *rows: list[int]) -> list[Tensor]:
    """Log-probs of all tokens of each row but the first."""
    made = token_rows([row[:1] for row in rows], [row[1:] for row in rows], pad_id=0)
    found = model(made.input_ids, made.attention_mask, made.is_trained).detach()
    return [found[place, 1 : len(row)] for place, row in enumerate(rows)]


def plain(model: Any, row: list[int]) -> Tensor:
    """The same by transformers alone."""
    ids = torch.tensor([row])
    with torch.no_grad():
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("longest", [ORIGINAL, 40])
def test_with_longrope_a_rollout_has_the_same_log_probs_beside_any_other(longrope: Path, packing: bool, longest: int) -> None:
    model = TokenLogprobModel(load_causal_lm(longrope, longest=longest), 8, packing=packing).eval()
    (alone,) = of_rows(model, SHORT)
    beside_long, _ = of_rows(model, SHORT, LONG)
    torch.testing.assert_close(beside_long, alone, rtol=0, atol=1e-5)


def test_longrope_has_the_factors_of_the_longest_row_that_there_may_be(longrope: Path) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(longrope)
    short = TokenLogprobModel(load_causal_lm(longrope, longest=ORIGINAL), 8).eval()
    long = TokenLogprobModel(load_causal_lm(longrope, longest=ORIGINAL + 1), 8).eval()
    whole = TokenLogprobModel(load_causal_lm(longrope), 8).eval()
    torch.testing.assert_close(of_rows(short, SHORT)[0], plain(theirs, SHORT), rtol=0, atol=1e-5)
    torch.testing.assert_close(of_rows(long, LONG)[0], plain(theirs, LONG), rtol=0, atol=1e-5)
    torch.testing.assert_close(of_rows(whole, LONG)[0], plain(theirs, LONG), rtol=0, atol=1e-5)
    assert not torch.allclose(of_rows(long, SHORT)[0], of_rows(short, SHORT)[0], atol=1e-3), "the factors must matter"


def test_factors_that_grow_with_the_row_are_refused() -> None:
    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})
    with pytest.raises(SettingsError, match=r"rotary factors of type dynamic, which change with the longest row"):
        random_causal_lm(config, 0)


ROWS = token_rows([[2, 3, 4, 5], [8, 9], [2, 3, 4, 5], [11]], [[12, 13, 14], [15, 16, 17, 18, 19], [34, 35, 36, 37], [38, 39]], pad_id=0)
NEO: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
FAMILIES: dict[str, Any] = {
    "OPT": lambda: OPTConfig(
        vocab_size=64, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=64, dropout=0.3,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    ),
    "Bloom": lambda: BloomConfig(vocab_size=64, hidden_size=64, n_layer=2, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=1),
    "MPT": lambda: MptConfig(vocab_size=64, d_model=64, n_layers=2, n_heads=2, max_seq_len=64),
    "Mamba": lambda: MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=2, state_size=8),
    "Falcon": lambda: FalconConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, attention_dropout=0.3, hidden_dropout=0.3,
    ),
    "Persimmon": lambda: PersimmonConfig(**NEO, attention_dropout=0.3),
    "Mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4),
    "Qwen3-MoE": lambda: Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48),
}  # fmt: skip


def outputs(model: TokenLogprobModel, rows: TokenRows = ROWS) -> Tensor:
    return model(rows.input_ids, rows.attention_mask, rows.is_trained)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_scoring_see_the_log_probs_of_a_plain_pass(name: str) -> None:
    model = TokenLogprobModel(random_causal_lm(FAMILIES[name](), 0), 8).train()
    first, again = outputs(model).detach(), outputs(model).detach()
    assert torch.equal(first, again), "nothing is drawn in a training pass"
    theirs = random_causal_lm(FAMILIES[name](), 0).eval()
    for place in range(len(ROWS.input_ids)):
        row = ROWS.input_ids[place][ROWS.attention_mask[place]].tolist()
        trained = ROWS.is_trained[place][: len(row)][1:]
        torch.testing.assert_close(first[place, 1 : len(row)][trained], plain(theirs, row)[trained], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_have_the_gradients_of_padded_ones(name: str) -> None:
    found: list[dict[str, Tensor]] = []
    for packing in (True, False):
        model = TokenLogprobModel(random_causal_lm(FAMILIES[name](), 0), 8, packing=packing).train()
        outputs(model).square().sum().backward()
        found.append({key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3-MoE"])
def test_mixtures_of_experts_are_packed(name: str) -> None:
    assert not TokenLogprobModel(random_causal_lm(FAMILIES[name](), 0), 8).packing.refusal


@pytest.mark.parametrize("name", FAMILIES)
def test_a_directory_of_each_is_loaded_and_scores(name: str, tmp_path: Path) -> None:
    random_causal_lm(FAMILIES[name](), 0).save_pretrained(tmp_path)
    model = TokenLogprobModel(load_causal_lm(tmp_path), 8)
    torch.testing.assert_close(outputs(model), outputs(TokenLogprobModel(random_causal_lm(FAMILIES[name](), 0), 8)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_can_be_a_critic(name: str) -> None:
    values = TokenValueModel(random_causal_lm(FAMILIES[name](), 0))(ROWS.input_ids, ROWS.attention_mask, ROWS.is_trained)
    assert values.shape == ROWS.input_ids.shape
    assert not values.any(), "the value head begins at 0"


def test_how_many_positions_a_model_has() -> None:
    assert longest_context(LlamaConfig(**SIZES)) == 64
    assert longest_context(GPT2Config(n_positions=48)) == 48
    assert longest_context(MptConfig(max_seq_len=32)) == 32
    assert longest_context(MambaConfig()) == UNBOUNDED
    assert longest_context(BloomConfig()) == UNBOUNDED


# Held in memory otherwise than in files

EXPERTS: dict[str, Any] = {
    "Mixtral": FAMILIES["Mixtral"],
    "Qwen3-MoE": FAMILIES["Qwen3-MoE"],
    "OLMoE": lambda: OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "DeepSeek V3": lambda: DeepseekV3Config(
        **SIZES, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, n_group=1, topk_group=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, first_k_dense_replace=1,
    ),
    "GPT-NeoX": lambda: GPTNeoXConfig(**NEO),
    "Qwen3.5": lambda: Qwen3_5TextConfig(**SIZES),
}  # fmt: skip


def own_names(model: TokenLogprobModel) -> set[str]:
    """Without the second names of tied weights."""
    return {name for name, _ in (*model.causal_lm.named_parameters(), *model.causal_lm.named_buffers())}


@pytest.mark.parametrize("name", EXPERTS)
def test_weights_are_published_as_the_files_had_them(name: str, tmp_path: Path) -> None:
    random_causal_lm(EXPERTS[name](), 0).save_pretrained(tmp_path)
    files = {key: tensor for file in tmp_path.glob("*.safetensors") for key, tensor in load_file(file).items()}
    model = TokenLogprobModel(load_causal_lm(tmp_path), 8)
    assert is_held_otherwise(model.causal_lm)
    published = dict(model.as_in_files((key, value) for key, value in model.causal_lm.state_dict().items() if key in own_names(model)))
    assert published.keys() == files.keys()
    assert all(torch.equal(published[key], tensor) for key, tensor in files.items())


@pytest.mark.parametrize(("is_tied", "written_twice"), [(False, False), (True, False), (True, True)])
def test_tied_weights_are_published_under_each_name_that_the_files_have(is_tied: bool, written_twice: bool, tmp_path: Path) -> None:
    """Tools write head and embedding twice or once; a sampler refuses a version that has less than it began with."""
    random_causal_lm(LlamaConfig(**{**SIZES, "tie_word_embeddings": is_tied}), 0).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if written_twice:
        tensors = load_file(file)
        save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    model = TokenLogprobModel(load_causal_lm(tmp_path), 8)
    with torch.no_grad():
        for parameter in model.causal_lm.parameters():
            parameter.add_(1.0)
    published = dict(model.as_in_files((key, value) for key, value in model.causal_lm.state_dict().items() if key in own_names(model)))
    files = load_file(file)
    assert published.keys() == files.keys()
    assert ("lm_head.weight" in files) == (written_twice or not is_tied)
    assert all(torch.equal(published[key], tensor + 1.0) for key, tensor in files.items())
    version = StoreWeights(str(tmp_path / "store"), template=tmp_path).publish(1, iter(published.items()), parent=None)
    require_same_tensors(tensor_shapes(tmp_path), tensor_shapes(version.directory), version.directory)


@pytest.mark.parametrize("name", EXPERTS)
def test_a_directory_of_them_scores_as_what_was_written(name: str, tmp_path: Path) -> None:
    made = random_causal_lm(EXPERTS[name](), 0)
    made.save_pretrained(tmp_path)
    torch.testing.assert_close(
        outputs(TokenLogprobModel(load_causal_lm(tmp_path), 8)), outputs(TokenLogprobModel(made, 8)), rtol=0, atol=1e-5
    )


def test_files_that_the_weights_cannot_be_given_back_to_are_refused(tmp_path: Path) -> None:
    model = random_causal_lm(EXPERTS["Mixtral"](), 0)
    save_file({"model.layers.0.block_sparse_moe.experts.0.w1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match="would not be published as the files have it"):
        require_form_of_files(model, tmp_path)
