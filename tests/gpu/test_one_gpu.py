"""What a GPU must agree on with itself, with vLLM and with a CPU, at the shape of Qwen2.5-0.5B; meant for eight minutes on one GPU.

The bodies are `tests/gpu_checks.py`, which also run small on a CPU.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gpu_checks import QWEN, packed_against_padded, rounding_of_rewards, run_of_all_services, train_steps, vllm_against_learner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # vLLM's own modules warn on import.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 1.0)])
def test_packed_rows_have_the_log_probs_of_padded_ones(dtype: str, tolerance: float) -> None:
    assert packed_against_padded(QWEN, "cuda", dtype, "sdpa") < tolerance  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(find_spec("flash_attn") is None, reason="needs the package flash-attn")
def test_rows_packed_with_flash_attention_have_the_log_probs_of_padded_ones() -> None:
    assert packed_against_padded(QWEN, "cuda", "bfloat16", "flash_attention_2") < 1.0


def test_the_meter_knows_the_rounding_of_rewards_and_a_float32_copy_has_none() -> None:
    found = rounding_of_rewards(QWEN, "cuda")
    assert found.noise_nats == pytest.approx(found.error_nats, rel=0.1)
    assert found.copy_error_nats < 0.05 * found.error_nats


@pytest.mark.timeout(200)
async def test_vllm_has_the_learners_log_probs(tmp_path: Path) -> None:
    assert await vllm_against_learner(QWEN, "cuda", "bfloat16", tmp_path) < 0.1


@pytest.mark.timeout(400)
def test_twenty_steps_of_all_services(tmp_path: Path) -> None:
    found = run_of_all_services(QWEN, "cuda", "bfloat16", tmp_path, steps=20, timeout_s=380)
    assert found.steps == 20
    assert found.ledger_closed
    assert found.mismatch_kl_nats < 0.1
    assert found.noise_nats > 0


def test_a_train_step_needs_less_memory_than_the_obvious_one() -> None:
    found = train_steps(32_000)
    assert found["oprime"].step_mebibytes < found["obvious"].step_mebibytes
