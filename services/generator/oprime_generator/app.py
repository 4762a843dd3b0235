"""Composition root of the generator."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from transformers import PreTrainedTokenizerBase

from oprime.adapters.observed import observed
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.lm.tokenizers import load_tokenizer, require_chat_template
from oprime.ports import TICKETS, Metrics, Payloads, Queue, WeightStore
from oprime.runtime.consume import check_server, consume
from oprime.runtime.errors import WeightsRefusedError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import report_heartbeats
from oprime.runtime.in_order import wait_for_start
from oprime.runtime.process import Lifecycle
from oprime.runtime.rank_launcher import Hosts
from oprime.runtime.run_end import end_with_run
from oprime_generator.config import GeneratorSettings
from oprime_generator.engine_arguments import EngineSettings
from oprime_generator.follow import WeightFollower
from oprime_generator.generate import GenerateGroup, GenerateRollouts
from oprime_generator.host_zero import HostZero, work_for
from oprime_generator.other_hosts import OtherHosts, require_hosts
from oprime_generator.sampler import Sampler
from oprime_generator.servicer import GeneratorServicer, status
from oprime_generator.transformers_sampler import TransformersSampler
from oprime_generator.vllm_sampler import VllmSampler
from oprime_generator.vllm_workers import VllmWorkers
from oprime_proto.v1.generator_pb2_grpc import add_GeneratorServiceServicer_to_server

log = structlog.get_logger()


async def serve(settings: GeneratorSettings, lifecycle: Lifecycle) -> None:
    hosts = Hosts.of_environment(os.environ)
    require_hosts(hosts, backend=settings.generator.backend, tensor_parallel=settings.generator.tensor_parallel)
    with observed("generator", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        if hosts.index > 0:
            await _work_for_host_0(settings, hosts, lifecycle)
        else:
            await _generate(settings, hosts, lifecycle, metrics)


async def _work_for_host_0(settings: GeneratorSettings, hosts: Hosts, lifecycle: Lifecycle) -> None:
    directory = await asyncio.to_thread(model_directory, settings.model.path)
    store = _open_store(settings, directory)
    workers = VllmWorkers(
        EngineSettings(
            directory=await asyncio.to_thread(_first_weights, store, directory),
            max_model_tokens=settings.sampling.max_prompt_tokens + settings.sampling.max_response_tokens,
            generator=settings.generator,
            dtype=settings.model.dtype,
            trust_remote_code=settings.model.trust_remote_code,
            transfer=settings.store.transfer,
            lora=settings.learner.adapters,
            hosts=hosts,
        )
    )
    host_0 = HostZero(hosts)
    try:
        await work_for(host_0, workers, store.fetch, stopping=lifecycle.stopping, note_ready=lifecycle.note_ready)
    finally:
        await workers.close()
        await host_0.close()


async def _generate(settings: GeneratorSettings, hosts: Hosts, lifecycle: Lifecycle, metrics: Metrics) -> None:
    clock, stopping = SystemClock(), lifecycle.stopping
    generator_id = f"{socket.gethostname()}-{os.getpid()}"
    directory = await asyncio.to_thread(model_directory, settings.model.path)
    tokenizer = _load_tokenizer(settings, directory)
    queue, payloads = _open(settings)
    store, other_hosts = _open_store(settings, directory), OtherHosts(hosts)
    sampler = _make_sampler(settings, await asyncio.to_thread(_first_weights, store, directory), other_hosts)
    rollouts = GenerateRollouts(sampler, tokenizer, metrics)
    groups = GenerateGroup(queue, payloads, clock, rollouts, max_staleness=settings.staleness.max_staleness)
    follower = _make_follower(settings, store, queue, rollouts, groups, generator_id, other_hosts)
    server = _make_server(settings, GeneratorServicer(rollouts, follower, generator_id=generator_id), lifecycle)

    async def begin() -> None:
        await check_server(queue, clock, stopping)
        await sampler.start()
        # Only now is it settled which versions belong to the run.
        await wait_for_start(queue, clock, stopping)
        await follower.follow()
        log.info("sampler_ready", backend=sampler.backend, weight_version=sampler.weight_version)
        await server.set_serving(True)

    try:
        await server.start()
        await _unless_stopping(begin(), stopping)
        if not stopping.is_set():
            await lifecycle.run(
                sampler.watch(),
                follower.run(),
                end_with_run(queue, settings.run, clock, stopping),
                report_heartbeats(
                    queue,
                    f"generator/{generator_id}",
                    partial(status, rollouts, follower),
                    every_s=settings.run.heartbeat_s,
                    stopping=stopping,
                ),
                consume(
                    queue,
                    TICKETS,
                    generator_id,
                    partial(groups.handle, gate=follower),
                    concurrency=settings.generator.max_running_groups,
                    lease_s=settings.queue.lease_s,
                    clock=clock,
                    stopping=stopping,
                    metrics=metrics,
                ),
            )
        await other_hosts.end()
    finally:
        await server.stop()
        await _close(sampler, queue, payloads)
        await other_hosts.close()


def _open_store(settings: GeneratorSettings, directory: Path) -> StoreWeights:
    return StoreWeights(settings.store.url or str(settings.run.folder / "weights"), template=directory, dtype=settings.model.dtype)


def _open(settings: GeneratorSettings) -> tuple[RedisQueue, Payloads]:
    return RedisQueue.of_run(settings.queue, settings.run.name), open_payloads(settings.payloads, settings.queue, settings.run.name)


def _load_tokenizer(settings: GeneratorSettings, directory: Path) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(directory, trust_remote_code=settings.model.trust_remote_code)
    require_chat_template(tokenizer)
    return tokenizer


async def _close(sampler: Sampler, queue: Queue, payloads: Payloads) -> None:
    await sampler.close()
    await queue.close()
    payloads.close()


async def _unless_stopping(work: Coroutine[Any, Any, None], stopping: asyncio.Event) -> None:
    """Do `work`, but give it up when the process is told to stop."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        stop.cancel()
        task.result()
        return
    task.cancel()
    await asyncio.wait([task])


def _make_server(settings: GeneratorSettings, servicer: GeneratorServicer, lifecycle: Lifecycle) -> GrpcServer:
    server = GrpcServer.of(settings.endpoints, "generator", on_serving=lifecycle.note_ready)
    server.add(add_GeneratorServiceServicer_to_server, servicer, "oprime_proto.v1.GeneratorService")
    return server


def _make_follower(
    settings: GeneratorSettings,
    store: WeightStore,
    queue: Queue,
    rollouts: GenerateRollouts,
    groups: GenerateGroup,
    generator_id: str,
    other_hosts: OtherHosts,
) -> WeightFollower:
    return WeightFollower(
        store,
        rollouts.sampler,
        queue,
        SystemClock(),
        rollouts.metrics,
        generator_id=generator_id,
        poll_s=settings.generator.follow_poll_s,
        turn_s=settings.queue.lease_s,
        at_once=settings.generator.follow_at_once,
        is_sampling=lambda: rollouts.progress.running_rollouts > 0,
        activated=groups.drop_stale,
        receiver=rollouts.sampler if settings.store.transfer == "nccl" and isinstance(rollouts.sampler, VllmSampler) else None,
        workers=settings.generator.tensor_parallel,
        elsewhere=other_hosts.fetch if other_hosts else None,
    )


def _first_weights(store: WeightStore, directory: Path) -> Path:
    """Version 0: from the store once the learner has put it there, and until then the model it is made from."""
    try:
        return store.fetch(0).directory
    except WeightsRefusedError:
        return directory


def _make_sampler(settings: GeneratorSettings, directory: Path, other_hosts: OtherHosts) -> Sampler:
    limits = settings.sampling
    if settings.generator.backend == "transformers":
        return TransformersSampler(
            directory,
            version=0,
            max_prompt_tokens=limits.max_prompt_tokens,
            max_response_tokens=limits.max_response_tokens,
            dtype=settings.model.dtype,
            trust_remote_code=settings.model.trust_remote_code,
            attention=settings.model.attention,
            lora=settings.learner.adapters,
        )
    return VllmSampler(
        directory,
        version=0,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_response_tokens=limits.max_response_tokens,
        settings=settings.generator,
        transfer=settings.store.transfer,
        dtype=settings.model.dtype,
        trust_remote_code=settings.model.trust_remote_code,
        lora=settings.learner.adapters,
        other_hosts=other_hosts,
    )
