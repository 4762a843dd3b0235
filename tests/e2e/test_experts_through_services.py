"""Mixtures of experts, and Mamba: six services over gRPC and Redis compute what the plain loop does, and publish it as the files had it.

Neither has a loss of the router's own (load balancing): transformers adds one to a loss that it computes itself, from labels, and neither
gives it any. So routers learn from the policy's and the PRM's losses alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    MambaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedTokenizerBase,
    Qwen3_5MoeTextConfig,
    Qwen3_5Tokenizer,
    Qwen3MoeConfig,
)

from e2e.command_line import DEMO, metric_rows, oprime, sets, summary
from e2e.conftest import small_run
from e2e.test_services_equal_the_plain_loop import STEPS, Case
from golden.prime_in_one_file import train
from oprime.lm.models import load_causal_lm, random_causal_lm
from oprime.tasks.chain_tokenizer import BEGIN, END, PAD, VOCABULARY, chain_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

TOLERANCE = 1e-6
"""That of the dense model in test_services_equal_the_plain_loop.py."""
POSITIONS = 128
SPACE = "\u0120"
"""How byte-level tokenizers write a space."""
SIGNS = "+-=#?"
QWEN_VOCABULARY = (PAD, BEGIN, END, *"0123456789", SPACE, *SIGNS, *(SPACE + sign for sign in SIGNS))
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "tie_word_embeddings": False, "pad_token_id": VOCABULARY.index(PAD),
    "bos_token_id": VOCABULARY.index(BEGIN), "eos_token_id": VOCABULARY.index(END),
}  # fmt: skip
QWEN_SIZES: dict[str, Any] = SIZES | {"vocab_size": len(QWEN_VOCABULARY)}
MAMBA = "Mamba"
FAMILIES: dict[str, Callable[[], Any]] = {
    # Noise on what the router sees is off in training, as all noise is.
    "Mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, router_jitter_noise=0.1),
    # Router logits and a weight for their loss change nothing where no labels are given.
    "Qwen3-MoE": lambda: Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, output_router_logits=True, router_aux_loss_coef=0.1
    ),
    "Qwen3.5-MoE": lambda: Qwen3_5MoeTextConfig(
        **QWEN_SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, head_dim=32,
        shared_expert_intermediate_size=64, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    ),
    "OLMoE": lambda: OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "DeepSeek V3": lambda: DeepseekV3Config(
        **SIZES, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, n_group=2, topk_group=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, first_k_dense_replace=1,
    ),
    MAMBA: lambda: MambaConfig(**{name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", *SPECIAL)}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "case"),
    [
        *[pytest.param(family, Case(), id=family) for family in FAMILIES],
        pytest.param("Mixtral", Case(ranks=2, zero_stage=3), id="Mixtral, 2 ranks, ZeRO 3"),
    ],
)
def test_weights_after_three_steps_agree_to_a_millionth(family: str, case: Case, tmp_path: Path) -> None:
    start = warmed_up(family, tmp_path / "start")
    assert_services_equal_the_loop(start, case, tmp_path, (".mixer.",) if family == MAMBA else (".gate.weight", ".experts."))


def assert_services_equal_the_loop(start: Path, case: Case, folder: Path, parts: tuple[str, ...]) -> list[Path]:
    """Train through all services and in the plain loop; gives the last versions of policy and PRM, which are whole and the loop's."""
    result = oprime(*small_run(start, folder, "synchronous", **case.of_run))
    assert result.returncode == 0, result.stdout + result.stderr
    run = folder / "synchronous"
    assert summary(run)["ledger_closed"]
    steps = metric_rows(run, "step")
    assert len(steps) == STEPS
    assert max(row["staleness_max"] for row in steps) == 0
    assert max(abs(row["mismatch_kl_nats"]) for row in steps) < 1e-4
    policy, prm, _ = train(str(start), case.of_loop)
    published = [run / name / f"v{STEPS:08d}" for name in ("weights", "prm_weights")]
    for version, expected in zip(published, (policy, prm), strict=True):
        assert tensors_in(version) == tensors_in(start), f"{version} is not in the form of the files"
        assert_same_training(str(version), load_causal_lm(version), expected, load_causal_lm(start), parts)
    return published


def assert_same_training(name: str, services: nn.Module, loop: nn.Module, before: nn.Module, parts: tuple[str, ...]) -> None:
    """Both have the same weights, and trained such `parts` as routers and experts too."""
    expected, start = weights_of(loop), weights_of(before)
    apart = {key: distance(tensor, expected[key]) for key, tensor in weights_of(services).items()}
    assert max(apart.values()) < TOLERANCE, f"{name}: {apart}"
    moved = {key: distance(tensor, expected[key]) for key, tensor in start.items()}
    assert max(moved.values()) > 1e-4, f"{name} did not train"
    for part in parts:
        assert max(change for key, change in moved.items() if part in key) > 1e-4, f"{part} of {name} did not train"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach() for key, tensor in model.state_dict().items()}


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def tensors_in(directory: Path) -> dict[str, list[int]]:
    """Names and shapes of a model's weights in its files."""
    found: dict[str, list[int]] = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no mapping
    return found


# Starting models


def warmed_up(family: str, folder: Path) -> Path:
    new, output = folder / "new", folder / "warm"
    random_causal_lm(FAMILIES[family](), 0).save_pretrained(new)
    tokenizer_of(family).save_pretrained(new)
    warm_up(new, output)
    return output


def warm_up(new: Path, output: Path) -> None:
    """A short supervised training of a tiny model on chains of two operations: it is right about half of the time."""
    settings = {
        "model.path": str(output),
        "tasks.chain.operations": 2,
        "sft.start": str(new),
        "sft.output": str(output),
        "sft.steps": 120,
        "sft.batch_rows": 64,
    }
    result = oprime("sft", str(DEMO), *sets(settings))
    assert result.returncode == 0, result.stdout + result.stderr


def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    return qwen_tokenizer() if family == "Qwen3.5-MoE" else chain_tokenizer(POSITIONS)


def qwen_tokenizer() -> PreTrainedTokenizerBase:
    """The chain task in tokens of a byte-level tokenizer: transformers reads the tokenizer of every Qwen3.5 as Qwen's own."""
    of_type: Any = Qwen3_5Tokenizer
    tokenizer = of_type(
        vocab={token: place for place, token in enumerate(QWEN_VOCABULARY)},
        merges=[(SPACE, sign) for sign in SIGNS],
        unk_token=None,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
    )
    answer = "' ' ~ message['content'] ~ '" + END + "'"
    tokenizer.chat_template = (
        "{% for message in messages %}{{ " + answer + " if message['role'] == 'assistant' else message['content'] }}{% endfor %}"
    )
    return tokenizer
