"""The workers of vLLM's engine on a host that is not host 0: what `vllm serve --headless` runs there."""

import asyncio
import os
from pathlib import Path
from typing import Any

import structlog

from oprime.runtime.errors import SettingsError
from oprime_generator import engine_process
from oprime_generator.engine_arguments import EngineSettings, agreed, engine_arguments, set_environment
from oprime_generator.sampler import SamplerDiedError

log = structlog.get_logger()

_WATCH_S = 0.5


class VllmWorkers:
    """This host's part of an engine that host 0 runs."""

    def __init__(self, settings: EngineSettings) -> None:
        """Sets the environment of vLLM's processes."""
        self._settings = settings
        self._arguments = engine_arguments(settings, on_cpu=set_environment(settings))
        self._executor: Any = None
        self._faults: Path | None = None

    @property
    def agreed(self) -> dict[str, str]:
        """What must be as on host 0."""
        return agreed(self._arguments)

    async def start(self, port: int) -> None:
        """Meet the workers of the other hosts at `port` of host 0. Raises SettingsError when vLLM cannot start."""
        building = asyncio.create_task(asyncio.to_thread(self._build, port))
        try:
            await asyncio.shield(building)
        except asyncio.CancelledError:
            await engine_process.give_up(building)
            raise
        log.info("workers_ready", host=self._settings.hosts.index, workers=len(self._executor.workers))

    def _build(self, port: int) -> None:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.executor.multiproc_executor import MultiprocExecutor
        except ImportError as error:
            raise SettingsError(engine_process.cannot_import(error)) from error
        self._faults = engine_process.keep_faults()
        try:
            arguments = AsyncEngineArgs(**self._arguments, master_port=port)
            config = arguments.create_engine_config(usage_context=UsageContext.ENGINE_CONTEXT, headless=True)
            self._executor = MultiprocExecutor(config, monitor_workers=False)
        except Exception as error:  # vLLM raises a plain one when a worker does not start
            reason = engine_process.root_cause(self._faults) or engine_process.fault_text(error)
            raise SettingsError(f"vLLM cannot start its workers with model {self._settings.directory}: {reason}") from error

    async def watch(self) -> None:
        while all(worker.proc.is_alive() for worker in self._executor.workers):  # noqa: ASYNC110 - processes set no event
            await asyncio.sleep(_WATCH_S)
        ended = engine_process.endings(worker.proc for worker in self._executor.workers)
        why = (engine_process.root_cause(self._faults) if self._faults else "") or ended or "it left no error"
        raise SamplerDiedError(f"a worker of vLLM's engine has ended: {why}")

    async def close(self) -> None:
        """End the workers at once: nothing in them outlives a request."""
        executor, self._executor = self._executor, None
        if executor is not None:
            for worker in executor.workers:
                worker.proc.kill()
            await asyncio.to_thread(executor.shutdown)
        if self._faults is not None:
            os.environ.pop(engine_process.FAULTS, None)
            self._faults.unlink(missing_ok=True)
