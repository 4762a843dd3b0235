"""Builds the coordinator service."""

import asyncio
import os
import socket
import uuid
from collections.abc import Sequence
from functools import partial

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import SamplingSettings, Task
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.process import Lifecycle
from oprime.tasks.dataset import PromptFeed, PromptOrder, load_tasks, require_prompts_fit
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.coordinate import Coordinate, RunState
from oprime_coordinator.evaluation import Evaluator
from oprime_coordinator.metrics_file import MetricsFile
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.servicer import CoordinatorServicer
from oprime_proto.v1.coordinator_pb2_grpc import add_CoordinatorServiceServicer_to_server

SERVE_ONLY = "OPRIME_SERVE_ONLY"
"""Environment variable: 1 keeps the services up without training."""


def build_prompts(settings: CoordinatorSettings) -> PromptFeed:
    """Training tasks in their seeded order; prompts that are too long are passed over."""
    tasks = load_tasks(settings.tasks, "train")
    if len(tasks) == 0:
        raise SettingsError("tasks.train has no usable rows: give a file with at least one")
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    render = partial(render_prompt, tokenizer)
    return PromptFeed(tasks, PromptOrder(settings.run.seed, len(tasks)), render, settings.sampling.max_prompt_tokens)


def build_problems(settings: CoordinatorSettings) -> Sequence[Task]:
    """Held-out tasks; a prompt that is too long is refused here, not in mid-run."""
    problems = load_tasks(settings.tasks, "heldout")
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    require_prompts_fit(problems, partial(render_prompt, tokenizer), settings.sampling.max_prompt_tokens, split="heldout")
    return problems


async def serve(settings: CoordinatorSettings, lifecycle: Lifecycle) -> None:
    clock = SystemClock()
    metrics = PrometheusMetrics.at(settings.endpoints)
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    prompts = await asyncio.to_thread(build_prompts, settings)
    generator, verifier = connect(settings.endpoints.generator), connect(settings.endpoints.verifier)
    evaluator = Evaluator(
        await asyncio.to_thread(build_problems, settings),
        SamplingSettings(
            temperature=1.0,
            max_prompt_tokens=settings.sampling.max_prompt_tokens,
            max_response_tokens=settings.sampling.max_response_tokens,
        ),
        answers_per_problem=settings.coordinator.heldout_samples,
        run_seed=settings.run.seed,
        generator=generator,
        verifier=verifier,
    )
    coordinate = build(settings, queue, clock, metrics, prompts, evaluator)
    server = GrpcServer(settings.endpoints.listen("coordinator"), reflection=settings.endpoints.reflection)
    servicer = CoordinatorServicer(coordinate, queue, total_steps=settings.run.steps)
    server.add(add_CoordinatorServiceServicer_to_server, servicer, "oprime_proto.v1.CoordinatorService")
    await server.start()
    try:
        await coordinate.take_lease(lifecycle.stopping)
        await coordinate.restore()
        await server.set_serving(True)
        await lifecycle.run(coordinate.keep_lease(), coordinate.watch(), _train_or_serve(coordinate, lifecycle.stopping))
    finally:
        await server.stop()
        await queue.end_turn("coordinator", coordinate.owner)
        await queue.close()
        await generator.close()
        await verifier.close()


async def _train_or_serve(coordinate: Coordinate, stopping: asyncio.Event) -> None:
    if os.environ.get(SERVE_ONLY) == "1":
        coordinate.run_state = RunState.SERVING
    else:
        await coordinate.run(stopping)
    await stopping.wait()


def build(
    settings: CoordinatorSettings,
    queue: RedisQueue,
    clock: SystemClock,
    metrics: PrometheusMetrics,
    prompts: PromptFeed,
    evaluator: Evaluator,
) -> Coordinate:
    url = settings.store.url or str(settings.run.folder / "weights")
    coordinate: Coordinate

    def note_step(step: int, values: dict[str, float]) -> None:
        coordinate.note_step(step, values)

    loop = RunLoop(settings, queue, clock, metrics, task_at=prompts, on_step=note_step)
    settings.run.folder.mkdir(parents=True, exist_ok=True)
    coordinate = Coordinate(
        settings,
        queue,
        clock,
        metrics,
        loop,
        evaluator,
        MetricsFile(settings.run.folder / "metrics.jsonl"),
        StoreWeights(url, template=model_directory(settings.model.path), dtype=settings.model.dtype),
        owner=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
    )
    return coordinate
