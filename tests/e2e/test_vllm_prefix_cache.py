"""Siblings share their prompt's keys and values in vLLM, and none that older weights computed is ever used again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from oprime_generator.config import GeneratorSection
from oprime_generator.sampler import SampledResponse, SampleRequest
from oprime_generator.vllm_sampler import VllmSampler
from tiny_policies import full_logprobs, write_policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.e2e,
    pytest.mark.slow,
    # vLLM's own modules warn on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(280),
]

BLOCK = 128
"""Tokens that vLLM's cache keeps together on a CPU."""
PROMPT = tuple(3 + (7 * place) % 37 for place in range(2 * BLOCK + 20))
RESPONSE = 60


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two policies whose layers differ, and so their keys."""
    directories = [tmp_path_factory.mktemp(f"policy-{seed}") for seed in (0, 1)]
    for seed, directory in enumerate(directories):
        write_policy(directory, seed=seed)
    return directories


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sampler(policies: list[Path]) -> AsyncIterator[VllmSampler]:
    # The cache holds two responses at a time, so that others wait inside vLLM.
    settings = GeneratorSection(cpu_cache_gib=0.0013, max_running_rollouts=16)
    made = VllmSampler(policies[0], version=0, settings=settings, max_prompt_tokens=300, max_response_tokens=RESPONSE)
    await made.start()
    yield made
    await made.close()


async def siblings(sampler: VllmSampler, name: str, count: int) -> list[SampledResponse]:
    requests = [
        SampleRequest(request_id=f"{name}-{seed}", prompt_ids=PROMPT, temperature=1.0, max_tokens=RESPONSE, seed=seed)
        for seed in range(count)
    ]
    return await asyncio.gather(*[sampler.sample(request) for request in requests])


def assert_computed_by(directory: Path, response: SampledResponse) -> None:
    assert response.behaviour_logprobs == pytest.approx(full_logprobs(directory, PROMPT, response.response_ids, 1.0), abs=2e-3)


async def test_siblings_read_their_prompt_once(sampler: VllmSampler, policies: list[Path]) -> None:
    first = await siblings(sampler, "first", 1)
    others = await siblings(sampler, "others", 4)
    assert first[0].cached_prompt_tokens == 0
    assert [one.cached_prompt_tokens for one in others] == [2 * BLOCK] * 4
    for response in (*first, *others):
        assert_computed_by(policies[0], response)


async def test_after_new_weights_everything_is_computed_by_them_alone(sampler: VllmSampler, policies: list[Path]) -> None:
    await siblings(sampler, "before", 2)
    version = sampler.weight_version + 1
    await sampler.load(policies[version % 2], version)
    (first,) = await siblings(sampler, "after", 1)
    assert first.cached_prompt_tokens == 0
    for response in (first, *await siblings(sampler, "later", 3)):
        assert_computed_by(policies[version % 2], response)
        with pytest.raises(AssertionError):
            assert_computed_by(policies[(version + 1) % 2], response)


async def test_prompts_that_wait_while_weights_change_are_read_with_the_new_ones(sampler: VllmSampler, policies: list[Path]) -> None:
    before = sampler.weight_version
    waiting = asyncio.create_task(siblings(sampler, "waiting", 40))
    # By then the first ones have tokens; how many does not matter.
    await asyncio.sleep(0.05)
    await sampler.load(policies[(before + 1) % 2], before + 1)
    whole = [one for one in await waiting if [span.version for span in one.spans] == [before + 1]]
    assert whole, "some waited"
    for response in whole:
        assert_computed_by(policies[(before + 1) % 2], response)
