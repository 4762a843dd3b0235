"""The generator's process where the policy does not write alone: `python generator_with_a_tool.py CONFIG`.

After the first token of a response a tool writes the chain's next value, which is right for every other rollout; then the policy
goes on. What the tool writes is read, not trained on.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import FinishReason, Rollout, untrained
from oprime.lm.tokenizers import load_tokenizer
from oprime.ports import TICKETS
from oprime.runtime.consume import consume
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.in_order import wait_for_start
from oprime.runtime.process import Lifecycle, main
from oprime.tasks.chain import parse_problem
from oprime_generator.config import GeneratorSettings
from oprime_generator.follow import WeightFollower
from oprime_generator.generate import GenerateGroup, GenerateRollouts
from oprime_generator.sampler import Sampler, SampleRequest, response_text
from oprime_generator.servicer import GeneratorServicer
from oprime_generator.transformers_sampler import TransformersSampler
from oprime_proto.v1.generator_pb2_grpc import add_GeneratorServiceServicer_to_server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_TURN = 1
"""Tokens."""


def tool(tokenizer: "PreTrainedTokenizerBase", prompt_ids: list[int], index: int) -> list[int]:
    """What the tool writes for the rollout `index` of a prompt."""
    value = parse_problem(str(tokenizer.decode(prompt_ids, skip_special_tokens=True))).values[1]
    return tokenizer.encode(f"={(value + index % 2) % 10}", add_special_tokens=False)


class WithTool(GenerateRollouts):
    """A response of two turns, with what the tool wrote between them; of one, if the policy ends it at once."""

    def __init__(self, sampler: Sampler, tokenizer: "PreTrainedTokenizerBase", metrics: PrometheusMetrics) -> None:
        super().__init__(sampler, tokenizer, metrics)
        self._words = tokenizer

    async def sample(self, request: SampleRequest, *, group_id: int = 0, index: int) -> Rollout:
        prompt = list(request.prompt_ids)
        first = await super().sample(replace(request, max_tokens=FIRST_TURN), group_id=group_id, index=index)
        if first.finish_reason is FinishReason.STOP:
            return first
        said, told = first.trained_ids.tolist(), tool(self._words, prompt, index)
        rest = replace(
            request,
            prompt_ids=(*prompt, *said, *told),
            max_tokens=request.max_tokens - len(said) - len(told),
            seed=request.seed + 1,
        )
        last = await super().sample(rest, group_id=group_id, index=index)
        segments = (*first.segments, untrained(told), *last.trained_segments)
        text = response_text(self._words, [*said, *told, *last.trained_ids.tolist()])
        return replace(last, seed=request.seed, segments=segments, text=text)


async def serve(settings: GeneratorSettings, lifecycle: Lifecycle) -> None:
    """As `oprime_generator.app.serve`, with the tool."""
    clock, metrics, limits = SystemClock(), PrometheusMetrics(), settings.sampling
    directory = model_directory(settings.model.path)
    store = StoreWeights(str(settings.run.folder / "weights"), template=directory, dtype=settings.model.dtype)
    queue, payloads = (
        RedisQueue.of_run(settings.queue, settings.run.name),
        open_payloads(settings.payloads, settings.queue, settings.run.name),
    )
    sampler = TransformersSampler(
        directory, version=0, max_prompt_tokens=limits.max_prompt_tokens, max_response_tokens=limits.max_response_tokens
    )
    rollouts = WithTool(sampler, load_tokenizer(directory), metrics)
    groups = GenerateGroup(queue, payloads, clock, rollouts, max_staleness=settings.staleness.max_staleness)
    follower = WeightFollower(
        store,
        sampler,
        queue,
        clock,
        metrics,
        generator_id="one",
        poll_s=0.05,
        turn_s=30,
        at_once=1,
        is_sampling=lambda: True,
        activated=groups.drop_stale,
    )
    server = GrpcServer(settings.endpoints.listen("generator"))
    servicer = GeneratorServicer(rollouts, follower, generator_id="one")
    server.add(add_GeneratorServiceServicer_to_server, servicer, "oprime_proto.v1.GeneratorService")
    try:
        await server.start()
        await sampler.start()
        await wait_for_start(queue, clock, lifecycle.stopping)
        await server.set_serving(True)
        handle = partial(groups.handle, gate=follower)
        work = consume(
            queue, TICKETS, "one", handle, concurrency=4, lease_s=settings.queue.lease_s, clock=clock, stopping=lifecycle.stopping,
            metrics=metrics,
        )  # fmt: skip
        await lifecycle.run(sampler.watch(), follower.run(), work)
    finally:
        await server.stop()
        await sampler.close()
        await queue.close()
        payloads.close()


if __name__ == "__main__":
    main("generator", GeneratorSettings, serve)
