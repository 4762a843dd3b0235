"""vLLM's processes end with the generator, however it ends, and say why when they end first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from living_processes import lives
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SamplerDiedError
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import write_policy

SAMPLER = """
import asyncio, sys
from pathlib import Path
from oprime_generator.config import GeneratorSection
from oprime_generator.vllm_sampler import VllmSampler

async def main():
    settings = GeneratorSection(cpu_cache_gib=0.125, max_running_rollouts=4)
    sampler = VllmSampler(Path(sys.argv[1]), version=0, settings=settings, max_prompt_tokens=8, max_response_tokens=8)
    await sampler.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await sampler.close()

asyncio.run(main())
"""

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize("ending", ["kill -9", "close"])
def test_no_process_outlives_the_generator(tmp_path: Path, ending: str) -> None:
    write_policy(tmp_path)
    command = [sys.executable, "-c", SAMPLER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as generator:
        assert generator.stdin is not None
        assert generator.stdout is not None
        assert "ready\n" in generator.stdout
        children = psutil.Process(generator.pid).children(recursive=True)
        assert any("VLLM::EngineCore" in " ".join(child.cmdline()) for child in children)
        if ending == "kill -9":
            generator.kill()
        else:
            generator.stdin.write("\n")
            generator.stdin.flush()
        generator.wait(30)
        assert ending == "kill -9" or generator.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    left = [child for child in alive if lives(child)]
    for child in left:
        child.kill()
    assert left == []


def test_a_machine_without_a_compiler_samples(tmp_path: Path) -> None:
    write_policy(tmp_path)
    environment = {**os.environ, "CXX": str(tmp_path / "no-compiler")}
    result = subprocess.run(
        [sys.executable, "-c", SAMPLER, str(tmp_path)],
        env=environment,
        input="\n",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (result.returncode, "ready\n" in result.stdout) == (0, True), result.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")  # vLLM's own modules warn on import
async def test_weights_that_break_the_engine_are_named_in_one_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_policy(first)
    shutil.copytree(first, second)
    tensors = load_file(second / "model.safetensors")
    save_file({**tensors, "model.layers.7.surprise": torch.zeros(1)}, second / "model.safetensors")
    settings = GeneratorSection(cpu_cache_gib=0.125, max_running_rollouts=4)
    sampler = VllmSampler(first, version=0, settings=settings, max_prompt_tokens=8, max_response_tokens=8)
    await sampler.start()
    try:
        with pytest.raises(
            SamplerDiedError, match=r"did not get to weight version 1: ValueError: There is no module or parameter named 'layers.7'"
        ) as failed:
            await sampler.load(second, 1)
        with pytest.raises(SamplerDiedError) as watched:
            await sampler.watch()
        assert str(watched.value) == str(failed.value)
        assert "\n" not in str(failed.value)
    finally:
        await sampler.close()
