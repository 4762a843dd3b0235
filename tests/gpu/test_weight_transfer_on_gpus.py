"""Weights that go over NCCL from one GPU to vLLM on another are those that a directory holds."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oprime.adapters.nccl_sender import NcclSender
from oprime.runtime.free_ports import reserve_port
from oprime.runtime.weight_transfer import Transfer
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampleRequest
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import write_policy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")]

REQUEST = SampleRequest(request_id="one", prompt_ids=(3, 4, 5), temperature=0.0, max_tokens=16, seed=0)


async def test_a_transfer_gives_the_weights_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_policy(old, seed=0)
    write_policy(new, seed=1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    torch.cuda.set_device(0)
    torch.zeros(1, device="cuda")  # this process keeps the first GPU, vLLM's get the second
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible[1])
    sampler = VllmSampler(
        old, version=1, max_prompt_tokens=16, max_response_tokens=32, settings=GeneratorSection(gpu_memory_share=0.3), transfer="nccl"
    )
    await sampler.start()
    try:
        weights = load_file(new / "model.safetensors")
        with reserve_port("127.0.0.1") as keeper:
            port: int = keeper.getsockname()[1]
        transfer = Transfer(
            version=2,
            host="127.0.0.1",
            port=port,
            world_size=2,
            first_ranks={"one": 1},
            names=tuple(weights),
            dtypes=tuple("float32" for _ in weights),
            shapes=tuple(tuple(tensor.shape) for tensor in weights.values()),
        )
        sending = threading.Thread(target=NcclSender().send, args=(transfer, iter(weights.items())))
        sending.start()
        await sampler.receive(transfer, "one")
        await asyncio.to_thread(sending.join)
        assert sampler.weight_version == 2
        received = await sampler.sample(REQUEST)
        await sampler.load(new, 3)
        loaded = await sampler.sample(REQUEST)
        assert received.response_ids == loaded.response_ids
        assert received.behaviour_logprobs == pytest.approx(loaded.behaviour_logprobs, abs=1e-6)
    finally:
        await sampler.close()
