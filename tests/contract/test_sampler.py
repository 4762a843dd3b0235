"""What every sampler keeps: the same suite on transformers and on vLLM, with versions that are whole models and that are adapters."""

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
import torch

from living_processes import children
from oprime.core.types import FinishReason
from oprime.lm.lora import add_adapter, merged
from oprime.lm.models import load_causal_lm
from oprime.runtime.errors import NotReadyError, SettingsError, WeightsRefusedError
from oprime.runtime.training_settings import LoraSection
from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampleAbortedError, SampledResponse, Sampler, SamplerDiedError, SampleRequest, TokenDelta
from oprime_generator.transformers_sampler import TransformersSampler
from oprime_generator.vllm_sampler import VllmSampler
from tiny_adapters import trained, write_adapter
from tiny_policies import END, POSITIONS, full_logprobs, greedy_tokens, with_other_head, write_policy

PROMPT = (5, 6, 7, 8)
PROMPT_LIMIT = 500
RESPONSE_LIMIT = 100
LORA = LoraSection(rank=4, alpha=8.0)
ATTEMPTS = 20
Found = TypeVar("Found")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # vLLM's own modules warn on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(280),
]


@dataclass
class Bench:
    """A sampler with the directories of the versions it can be given."""

    sampler: Sampler
    directories: dict[int, Path]
    """Whole models."""
    published: dict[int, Path]
    """What the sampler is given: the same, or adapters."""

    async def move_on(self) -> tuple[Path, Path]:
        """Switch to the next version; returns the models before and after. Neighbours differ above all keys and values."""
        version = self.sampler.weight_version
        before, after = self.directories[version % 2], self.directories[(version + 1) % 2]
        await self.sampler.load(self.published[(version + 1) % 2], version + 1)
        return before, after

    @property
    def directory(self) -> Path:
        return self.directories[self.sampler.weight_version % 2]


@pytest_asyncio.fixture(
    loop_scope="module",
    scope="module",
    params=[
        ("transformers", LoraSection()),
        pytest.param(("transformers", LORA), marks=pytest.mark.slow),
        *(pytest.param(("vllm", lora), marks=[pytest.mark.e2e, pytest.mark.slow]) for lora in (LoraSection(), LORA)),
    ],
    ids=lambda param: f"{param[0]}, adapters" if param[1].rank else param[0],
)
async def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    backend, lora = request.param
    directories = {number: tmp_path_factory.mktemp(f"policy-{number}") for number in (0, 1)}
    published = adapters(directories, tmp_path_factory.mktemp("adapters")) if lora.rank else whole_models(directories)
    if backend == "vllm":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        # A cache too small for the long prompts below with their responses.
        settings = GeneratorSection(cpu_cache_gib=0.005, max_running_rollouts=16)
        sampler: Sampler = VllmSampler(
            directories[0], version=0, settings=settings, max_prompt_tokens=PROMPT_LIMIT, max_response_tokens=RESPONSE_LIMIT, lora=lora
        )
    else:
        sampler = TransformersSampler(
            directories[0], version=0, max_prompt_tokens=PROMPT_LIMIT, max_response_tokens=RESPONSE_LIMIT, lora=lora
        )
    await sampler.start()
    yield Bench(sampler, directories, published)
    await sampler.close()


def whole_models(directories: dict[int, Path]) -> dict[int, Path]:
    write_policy(directories[0])
    with_other_head(write_policy(directories[1]), seed=1).save_pretrained(directories[1])
    return directories


def adapters(directories: dict[int, Path], folder: Path) -> dict[int, Path]:
    """Of the model in the first directory: one that changes nothing, and one that makes it the model in the second."""
    write_policy(directories[0])
    model = add_adapter(write_policy(directories[1]), LORA, seed=0)
    published = {0: write_adapter(model, directories[0], folder / "0")}
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # The last thing that the last layer computes: keys and values of earlier tokens stay what they are.
        b = trained(model)["model.layers.1.mlp.down_proj.lora_B.default.weight"]
        b.copy_(torch.randn(b.shape, generator=noise))
    published[1] = write_adapter(model, directories[0], folder / "1")
    write_policy(directories[1]).save_pretrained(directories[1], state_dict=dict(merged(model, model.named_parameters())))
    return published


def a_request(name: str, *, seed: int = 0, temperature: float = 1.0, max_tokens: int = RESPONSE_LIMIT) -> SampleRequest:
    return SampleRequest(request_id=name, prompt_ids=PROMPT, temperature=temperature, max_tokens=max_tokens, seed=seed)


async def sample_many(
    sampler: Sampler, name: str, seeds: range, *, temperature: float = 1.0, max_tokens: int = RESPONSE_LIMIT
) -> list[SampledResponse]:
    requests = [a_request(f"{name}-{seed}", seed=seed, temperature=temperature, max_tokens=max_tokens) for seed in seeds]
    return await asyncio.gather(*[sampler.sample(request) for request in requests])


def covered(response: SampledResponse) -> list[int]:
    return [position for span in response.spans for position in range(span.start, span.end)]


async def test_the_same_seed_gives_the_same_response_and_others_give_others(bench: Bench) -> None:
    alone = await bench.sampler.sample(a_request("alone", seed=3))
    together = await sample_many(bench.sampler, "together", range(8))
    assert together[3].response_ids == alone.response_ids
    assert together[3].behaviour_logprobs == pytest.approx(alone.behaviour_logprobs, abs=1e-4)
    assert len({response.response_ids for response in together}) == 8


async def test_long_prompts_together_are_answered_as_each_alone(bench: Bench) -> None:
    # Together they are more tokens than one forward pass of vLLM reads, and more than its cache holds.
    requests = [
        SampleRequest(
            request_id=f"long-{number}",
            prompt_ids=tuple(3 + (7 * place + number) % 37 for place in range(PROMPT_LIMIT - 20 * number)),
            temperature=1.0,
            max_tokens=RESPONSE_LIMIT,
            seed=number,
        )
        for number in range(12)
    ]
    together = await asyncio.gather(*[bench.sampler.sample(request) for request in requests])
    for request, response in zip(requests, together, strict=True):
        expected = full_logprobs(bench.directory, request.prompt_ids, response.response_ids, 1.0)
        assert response.behaviour_logprobs == pytest.approx(expected, abs=2e-3)
    alone = [await bench.sampler.sample(request) for request in requests[::4]]
    assert [response.response_ids for response in alone] == [response.response_ids for response in together[::4]]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
async def test_log_probs_are_those_of_the_distribution_that_was_sampled_from(bench: Bench, temperature: float) -> None:
    responses = await sample_many(bench.sampler, f"t{temperature}", range(4), temperature=temperature)
    for response in responses:
        expected = full_logprobs(bench.directory, PROMPT, response.response_ids, temperature)
        assert response.behaviour_logprobs == pytest.approx(expected, abs=2e-3)
        assert covered(response) == list(range(len(response.response_ids)))


async def test_a_small_top_p_leaves_the_most_probable_tokens(bench: Bench) -> None:
    greedy = await bench.sampler.sample(a_request("greedy", temperature=0.0, max_tokens=20))
    narrow = [replace(a_request(f"narrow-{seed}", seed=seed, max_tokens=20), top_p=1e-6) for seed in range(2)]
    for found in await asyncio.gather(*map(bench.sampler.sample, narrow)):
        assert found.response_ids == greedy.response_ids
    wide = await bench.sampler.sample(replace(a_request("wide", max_tokens=40), top_p=0.5))
    # What is left of the distribution is at least half of it, so each token is at most twice as probable as before.
    before = full_logprobs(bench.directory, PROMPT, wide.response_ids, 1.0)
    assert all(0 <= now - was <= math.log(2) + 2e-3 for now, was in zip(wide.behaviour_logprobs, before, strict=True))


async def test_a_response_ends_with_its_end_token_and_the_text_leaves_it_out(bench: Bench) -> None:
    ended = [response for response in await sample_many(bench.sampler, "end", range(8)) if response.finish_reason is FinishReason.STOP]
    assert ended
    for response in ended:
        assert response.response_ids[-1] == END
        assert END not in response.response_ids[:-1]
        assert len(response.behaviour_logprobs) == len(response.response_ids)
        # <pad> (0) and <bos> (1) are special as well.
        assert response.text.split() == [f"w{token}" for token in response.response_ids if token > END]


async def test_a_response_is_cut_at_its_limit(bench: Bench) -> None:
    for response in await sample_many(bench.sampler, "cut", range(8), max_tokens=2):
        if response.finish_reason is FinishReason.LENGTH:
            assert len(response.response_ids) == 2
            assert END not in response.response_ids
        else:
            assert response.response_ids[-1] == END


async def test_temperature_0_takes_the_most_probable_token_whatever_the_seed(bench: Bench) -> None:
    first, second = await sample_many(bench.sampler, "greedy", range(2), temperature=0.0, max_tokens=12)
    assert first.response_ids == second.response_ids
    expected = full_logprobs(bench.directory, PROMPT, first.response_ids, 0.0)
    assert first.behaviour_logprobs == pytest.approx(expected, abs=2e-3)
    assert first.response_ids == greedy_tokens(bench.directory, PROMPT, first.response_ids)
    for position, token in enumerate(first.response_ids):
        others = [
            full_logprobs(bench.directory, PROMPT, (*first.response_ids[:position], other), 0.0)[-1]
            for other in range(3, 40)
            if other != token
        ]
        assert max(others) < expected[position] + 1e-3
        if position == 1:
            break


async def test_a_stream_says_the_same_as_the_response_at_its_end(bench: Bench) -> None:
    whole = await bench.sampler.sample(a_request("whole", seed=5))
    parts = [part async for part in bench.sampler.stream(a_request("parts", seed=5))]
    finished = parts[-1]
    assert isinstance(finished, SampledResponse)
    assert finished.response_ids == whole.response_ids
    deltas = [part for part in parts[:-1] if isinstance(part, TokenDelta)]
    assert len(deltas) == len(parts) - 1 > 1
    assert tuple(token for delta in deltas for token in delta.response_ids) == whole.response_ids
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [logprob for delta in deltas for logprob in delta.behaviour_logprobs] == pytest.approx(whole.behaviour_logprobs, abs=1e-4)


async def test_a_response_that_meets_new_weights_says_which_token_came_from_which(bench: Bench) -> None:
    async def switched(name: str) -> tuple[SampledResponse, Path, Path] | None:
        """A response of two versions, with the models of both."""
        version = bench.sampler.weight_version
        seed, seen = await _seed_of_a_long_response(bench.sampler), 0
        before = after = bench.directory
        finished = None
        async for part in bench.sampler.stream(a_request(name, seed=seed)):
            if isinstance(part, SampledResponse):
                finished = part
            elif (seen := seen + len(part.response_ids)) >= 3 and before == after:
                before, after = await bench.move_on()
        assert finished is not None
        assert covered(finished) == list(range(len(finished.response_ids)))
        versions = [span.version for span in finished.spans]
        assert versions in ([version], [version, version + 1])
        return (finished, before, after) if len(versions) == 2 else None

    finished, before, after = await in_time(switched)
    switch = finished.spans[1].start
    assert switch >= 3
    old = full_logprobs(before, PROMPT, finished.response_ids, 1.0)
    new = full_logprobs(after, PROMPT, finished.response_ids, 1.0)
    assert finished.behaviour_logprobs == pytest.approx(old[:switch] + new[switch:], abs=2e-3)
    assert new[switch:] != pytest.approx(old[switch:], abs=2e-2)


async def in_time(attempt: Callable[[str], Awaitable[Found | None]]) -> Found:
    """What the first attempt finds that finds something.

    A sampler runs ahead of its readers, on a busy machine to the end of the response before anything else can happen to it.
    """
    for number in range(ATTEMPTS):
        found = await attempt(f"attempt-{number}")
        if found is not None:
            return found
    pytest.fail(f"{ATTEMPTS} responses were over before anything could happen to them")


async def _seed_of_a_long_response(sampler: Sampler) -> int:
    """A response of old weights long enough to be met by new ones half-way."""
    responses = await sample_many(sampler, "long", range(24))
    return max(range(24), key=lambda seed: len(responses[seed].response_ids))


async def test_after_a_switch_whole_responses_come_from_the_new_weights(bench: Bench) -> None:
    old = await bench.sampler.sample(a_request("old", seed=1))
    _, after = await bench.move_on()
    new = await bench.sampler.sample(a_request("new", seed=1))
    assert new.response_ids != old.response_ids or new.behaviour_logprobs != pytest.approx(old.behaviour_logprobs, abs=1e-3)
    assert new.behaviour_logprobs == pytest.approx(full_logprobs(after, PROMPT, new.response_ids, 1.0), abs=2e-3)
    assert [span.version for span in new.spans] == [bench.sampler.weight_version]


async def test_a_switch_whose_caller_gives_up_leaves_a_sampler_that_samples(bench: Bench) -> None:
    before = bench.sampler.weight_version
    under_way = asyncio.create_task(bench.sampler.sample(a_request("meanwhile", seed=await _seed_of_a_long_response(bench.sampler))))
    # Earlier than anything happens, later than all is done, and everywhere between.
    for attempt in range(12):
        switching = asyncio.create_task(bench.move_on())
        await asyncio.sleep(0.01 * attempt)
        switching.cancel()
        await asyncio.gather(switching, return_exceptions=True)
        # What the caller can see of a switch is all that there will be of it.
        version = bench.sampler.weight_version
        response = await asyncio.wait_for(bench.sampler.sample(a_request("after", seed=1)), 30)
        assert [span.version for span in response.spans] == [version]
        assert response.behaviour_logprobs == pytest.approx(full_logprobs(bench.directory, PROMPT, response.response_ids, 1.0), abs=2e-3)
    assert before < version <= before + 12
    assert covered(await asyncio.wait_for(under_way, 30))[0] == 0


async def test_weights_that_do_not_fit_are_refused_and_the_old_ones_serve_on(bench: Bench, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    version = bench.sampler.weight_version
    (file,) = bench.published[version % 2].glob("*.safetensors")
    tensors = load_file(file)
    name = max(tensors)
    tensors.pop(name)
    save_file(tensors, tmp_path / file.name)
    with pytest.raises(WeightsRefusedError, match=rf"lacks the tensor {re.escape(name)}"):
        await bench.sampler.load(tmp_path, version + 1)
    response = await bench.sampler.sample(a_request("still", seed=2))
    assert bench.sampler.weight_version == version
    assert response.behaviour_logprobs == pytest.approx(full_logprobs(bench.directory, PROMPT, response.response_ids, 1.0), abs=2e-3)


async def test_adapters_of_another_model_are_refused_and_the_old_ones_serve_on(bench: Bench, tmp_path: Path) -> None:
    if bench.published is bench.directories:
        pytest.skip("has whole models")
    write_policy(tmp_path / "other", seed=5)
    other = write_adapter(add_adapter(load_causal_lm(tmp_path / "other"), LORA, seed=0), tmp_path / "other", tmp_path / "adapter")
    version = bench.sampler.weight_version
    with pytest.raises(WeightsRefusedError, match=r"belongs to .*other \(fingerprint \w{16}\), but the model here is .*policy-0"):
        await bench.sampler.load(other, version + 1)
    assert bench.sampler.weight_version == version


async def test_an_aborted_response_ends_with_an_error_and_the_others_go_on(bench: Bench) -> None:
    seed = await _seed_of_a_long_response(bench.sampler)

    async def given_up(name: str) -> SampleAbortedError | None:
        """Abort a response at its first token."""
        seen = 0
        try:
            async for _ in bench.sampler.stream(a_request(name, seed=seed)):
                seen += 1
                if seen == 1:
                    assert bench.sampler.oldest_version(name) == bench.sampler.weight_version
                    await bench.sampler.abort([name, "unknown"])
        except SampleAbortedError as error:
            return error
        finally:
            assert bench.sampler.oldest_version(name) is None
        return None

    other = asyncio.create_task(bench.sampler.sample(a_request("other", seed=seed)))
    assert "attempt-" in str(await in_time(given_up))
    assert len((await other).response_ids) > 3


async def test_a_cancelled_response_makes_room_for_its_id(bench: Bench) -> None:
    seed = await _seed_of_a_long_response(bench.sampler)
    task = asyncio.create_task(bench.sampler.sample(a_request("again", seed=seed)))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await bench.sampler.sample(a_request("again", seed=seed))).response_ids


async def test_an_engine_that_dies_is_noticed(bench: Bench) -> None:
    if not isinstance(bench.sampler, VllmSampler):
        pytest.skip("has no process of its own")
    seed, engine = await _seed_of_a_long_response(bench.sampler), children("VLLM::")
    under_way = asyncio.create_task(bench.sampler.sample(a_request("under-way", seed=seed)))
    await asyncio.sleep(0)
    for process in engine:
        process.kill()
    with pytest.raises(SamplerDiedError, match=r"engine process has ended: .*(SIGKILL|exit code: -9)"):
        await asyncio.wait_for(bench.sampler.watch(), 60)
    with pytest.raises(SamplerDiedError, match=r"SIGKILL|exit code: -9"):
        await under_way
    with pytest.raises(SamplerDiedError):
        await asyncio.wait_for(bench.move_on(), 60)


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
async def test_there_is_nothing_to_switch_before_the_start(tmp_path: Path, kind: str) -> None:
    write_policy(tmp_path)
    sampler: Sampler = (
        VllmSampler(tmp_path, version=0, settings=GeneratorSection(), max_prompt_tokens=8, max_response_tokens=8)
        if kind == "vllm"
        else TransformersSampler(tmp_path, version=0, max_prompt_tokens=8, max_response_tokens=8)
    )
    with pytest.raises(NotReadyError, match="not running yet"):
        await sampler.load(tmp_path, 1)


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
async def test_limits_beyond_the_models_positions_are_refused_before_anything_starts(tmp_path: Path, kind: str) -> None:
    write_policy(tmp_path)
    sampler: Sampler = (
        VllmSampler(tmp_path, version=0, settings=GeneratorSection(), max_prompt_tokens=900, max_response_tokens=200)
        if kind == "vllm"
        else TransformersSampler(tmp_path, version=0, max_prompt_tokens=900, max_response_tokens=200)
    )
    with pytest.raises(
        SettingsError, match=rf"\(900\) \+ sampling.max_response_tokens \(200\) = 1100 is more than the {POSITIONS} positions"
    ):
        await sampler.start()
