"""Builds the coordinator service."""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

from oprime.adapters.observed import observed
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.open_trackers import FOLDER, open_trackers, shown_settings
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import SamplingSettings, Task
from oprime.evaluation.of_run import benchmarks_of_run
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.lm.without_torch import make_no_models
from oprime.ports import Metrics, Payloads, TrackedRun
from oprime.runtime.consume import check_server
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_client import connect
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.metrics_file import MetricsFile
from oprime.runtime.process import Lifecycle
from oprime.runtime.queue_trouble import QueueTrouble
from oprime.runtime.run_end import ends_with_run
from oprime.runtime.setting_rules import trainers_of
from oprime.runtime.settings import RunSection, read_toml
from oprime.runtime.source_commit import git_commit
from oprime.runtime.tracking import Tracking
from oprime.tasks.dataset import PromptFeed, PromptOrder, load_tasks, require_prompts_fit
from oprime_coordinator.benchmarks import Benchmarks
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.coordinate import Coordinate, RunState
from oprime_coordinator.evaluation import Evaluator
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.servicer import CoordinatorServicer
from oprime_coordinator.sweep import Sweep
from oprime_proto.v1.coordinator_pb2_grpc import add_CoordinatorServiceServicer_to_server

SERVE_ONLY = "OPRIME_SERVE_ONLY"
"""Environment variable: 1 keeps the services up without training."""


def build_prompts(settings: CoordinatorSettings) -> PromptFeed:
    """Training tasks in their seeded order; prompts that are too long, or that the chat template refuses, are passed over."""
    tasks = load_tasks(settings.tasks, "train")
    if len(tasks) == 0:
        raise SettingsError("tasks.train has no usable rows: give a file with at least one")
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    render = partial(render_prompt, tokenizer)
    return PromptFeed(tasks, PromptOrder(settings.run.seed, len(tasks)), render, settings.sampling.max_prompt_tokens)


def build_problems(settings: CoordinatorSettings) -> Sequence[Task]:
    """Held-out tasks; a prompt that is too long, or that the chat template refuses, is refused here, not in mid-run."""
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    render = partial(render_prompt, tokenizer)
    problems = load_tasks(settings.tasks, "heldout", render)
    require_prompts_fit(problems, render, settings.sampling.max_prompt_tokens, split="heldout")
    return problems


async def serve(settings: CoordinatorSettings, lifecycle: Lifecycle) -> None:
    make_no_models()
    with observed("coordinator", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        await _coordinate(settings, lifecycle, metrics)


async def _coordinate(settings: CoordinatorSettings, lifecycle: Lifecycle, metrics: Metrics) -> None:
    clock = SystemClock()
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    prompts = await asyncio.to_thread(build_prompts, settings)
    endpoints = settings.endpoints
    generator, verifier = connect(endpoints.generator, endpoints.tls), connect(endpoints.verifier, endpoints.tls)
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
        shown_problems=settings.tracking.rows,
    )
    benchmarks = Benchmarks(
        await asyncio.to_thread(benchmarks_of_run, settings.run, settings.sampling),
        run_name=settings.run.name,
        run_folder=settings.run.folder,
        seed=settings.run.seed,
        max_prompt_tokens=settings.sampling.max_prompt_tokens,
        generator=generator,
        verifier=verifier,
    )
    trouble = QueueTrouble(queue)
    payloads = open_payloads(settings.payloads, settings.queue, settings.run.name)
    coordinate = build(settings, trouble, payloads, clock, metrics, prompts, evaluator, benchmarks)
    server = GrpcServer.of(settings.endpoints, "coordinator", on_serving=lifecycle.note_ready)
    servicer = CoordinatorServicer(coordinate, total_steps=settings.run.steps)
    server.add(add_CoordinatorServiceServicer_to_server, servicer, "oprime_proto.v1.CoordinatorService")
    await server.start()
    try:
        await check_server(queue, clock, lifecycle.stopping)
        if not await coordinate.lease.take(lifecycle.stopping):
            return
        await coordinate.restore()
        await server.set_serving(True)
        await lifecycle.run(
            coordinate.lease.keep(),
            coordinate.watch(),
            coordinate.watch_progress(),
            coordinate.sweep.run(metrics),
            _train_or_serve(coordinate, settings.run, lifecycle.stopping),
        )
    finally:
        await server.stop()
        await coordinate.lease.release()
        await coordinate.close()
        await queue.close()
        payloads.close()
        await generator.close()
        await verifier.close()


async def _train_or_serve(coordinate: Coordinate, run: RunSection, stopping: asyncio.Event) -> None:
    if os.environ.get(SERVE_ONLY) == "1":
        coordinate.run_state = RunState.SERVING
        return
    await coordinate.run(stopping)
    if ends_with_run(run) and not stopping.is_set():
        await coordinate.sweep.last()
        stopping.set()


def build(
    settings: CoordinatorSettings,
    trouble: QueueTrouble,
    payloads: Payloads,
    clock: SystemClock,
    metrics: Metrics,
    prompts: PromptFeed,
    evaluator: Evaluator,
    benchmarks: Benchmarks,
) -> Coordinate:
    url = settings.store.url or str(settings.run.folder / "weights")
    coordinate: Coordinate

    def note_step(step: int, values: dict[str, float]) -> None:
        coordinate.note_step(step, values)

    async def look_at_reports() -> None:
        await coordinate.seen.look_at_reports()

    queue = trouble.queue
    loop = RunLoop(settings, queue, payloads, clock, metrics, task_at=prompts, on_step=note_step, before_step=look_at_reports)
    settings.run.folder.mkdir(parents=True, exist_ok=True)
    coordinate = Coordinate(
        settings,
        queue,
        clock,
        metrics,
        loop,
        evaluator,
        benchmarks,
        MetricsFile(settings.run.folder / "metrics.jsonl"),
        StoreWeights(url, template=model_directory(settings.model.path), dtype=settings.model.dtype),
        Sweep(
            queue,
            payloads,
            clock,
            group_size=settings.rollouts_per_group,
            trainers=trainers_of(settings.algorithm),
            lease_s=settings.queue.lease_s,
        ),
        queue_error=lambda: trouble.text,
        track=partial(_track, settings),
    )
    return coordinate


def _track(settings: CoordinatorSettings, done: int) -> Tracking:
    folder = settings.run.folder
    whole = folder / "config.toml"
    run = TrackedRun(
        project=settings.tracking.project,
        name=settings.run.name,
        directory=folder / FOLDER,
        # What started the service knows all sections.
        settings=shown_settings(read_toml(whole) if whole.is_file() else settings.model_dump(mode="json")),
        commit=git_commit(),
        done=done,
    )
    return open_trackers(settings.tracking, run)
