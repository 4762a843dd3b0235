"""A GPU computes what the CPU computes."""

import pytest
import torch

from oprime.lm.frozen import FrozenModel
from rollouts import rows_of
from tiny_models import batch_of, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_log_probs_agree_with_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    rows = rows_of(batch_of(1))
    on_cpu = FrozenModel(tiny_model(), chunk_tokens=8).logprobs(rows)
    on_gpu_model = tiny_model()
    torch.nn.Module.to(on_gpu_model, "cuda", dtype)
    on_gpu = FrozenModel(on_gpu_model, chunk_tokens=8).logprobs(rows)
    torch.testing.assert_close(on_gpu, on_cpu, atol=tolerance, rtol=0)
