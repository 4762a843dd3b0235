"""The bodies of `tests/gpu`, small and on a CPU: what waits for a GPU works."""

from pathlib import Path

import pytest

from gpu_checks import TINY, packed_against_padded, rounding_of_rewards, run_of_all_services, train_steps, vllm_against_learner

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 1.0)])
def test_packed_rows_have_the_log_probs_of_padded_ones(dtype: str, tolerance: float) -> None:
    assert packed_against_padded(TINY, "cpu", dtype, "sdpa") < tolerance  # pyright: ignore[reportArgumentType]


def test_the_meter_knows_the_rounding_of_rewards_and_a_float32_copy_has_none() -> None:
    found = rounding_of_rewards(TINY, "cpu")
    assert found.noise_nats == pytest.approx(found.error_nats, rel=0.01)
    assert found.copy_error_nats < 1e-3 * found.error_nats


@pytest.mark.timeout(200)
async def test_vllm_has_the_learners_log_probs(tmp_path: Path) -> None:
    assert await vllm_against_learner(TINY, "cpu", "float32", tmp_path) < 1e-3


@pytest.mark.timeout(300)
def test_some_steps_of_all_services_in_bfloat16(tmp_path: Path) -> None:
    found = run_of_all_services(TINY, "cpu", "bfloat16", tmp_path, steps=3, timeout_s=280)
    assert found.steps == 3
    assert found.ledger_closed
    assert found.mismatch_kl_nats < 0.1
    assert found.noise_nats > 0


def test_a_train_step_is_measured() -> None:
    found = train_steps(100)
    assert found["oprime"].tokens == found["obvious"].tokens > 0
