"""Everything that a verifier service offers, from its settings: pools, external verifiers, compositions."""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import structlog

from oprime.ports import Metrics
from oprime.runtime.errors import OprimeError
from oprime_verifier.config import BUILT_IN, VerifierSection
from oprime_verifier.external.composition import Composition
from oprime_verifier.external.grpc_verifier import GrpcVerifier
from oprime_verifier.external.loading import BrokenVerifier, plugin_section
from oprime_verifier.external.settings import PluginSection
from oprime_verifier.external.webhook import WebhookVerifier
from oprime_verifier.ports import Verifier
from oprime_verifier.working.dispatch import Dispatcher
from oprime_verifier.working.worker import WorkerFailedError, WorkerSetup
from oprime_verifier.working.worker_pool import PooledVerifier, WorkerPool

log = structlog.get_logger()

MIB = 1024 * 1024


class Offer:
    """Pools and verifiers of one service. `start` before the first request, `close` at the end."""

    def __init__(self, section: VerifierSection, metrics: Metrics | None = None) -> None:
        self._section = section
        self.pool = WorkerPool(_setup(section), workers=section.workers, attempts=section.attempts, metrics=metrics)
        """Workers of the built-in verifiers."""
        self.dispatcher = Dispatcher({}, cache_entries=section.cache_entries, config_hash=config_hash(section))
        self._started = AsyncExitStack()

    async def start(self) -> None:
        """Start pools and clients. A plug-in that cannot be used is reported by its description and stops nothing else."""
        await self.pool.start()
        self._started.push_async_callback(self.pool.close)
        verifiers: dict[str, Verifier] = {name: PooledVerifier(self.pool, name) for name in BUILT_IN}
        plugins = {name: plugin_section(target, name) for name, target in self._section.plugins.items()}
        started = await asyncio.gather(*(self._start_plugin(name, plugin) for name, plugin in plugins.items()))
        verifiers |= dict(zip(plugins, started, strict=True))
        verifiers |= {name: WebhookVerifier(name, section) for name, section in self._section.webhooks.items()}
        verifiers |= {name: GrpcVerifier(name, section) for name, section in self._section.services.items()}
        for name in self._section.composition_order():
            section = self._section.compositions[name]
            verifiers[name] = Composition(name, section, {part: verifiers[part] for part in section.parts})
        self.dispatcher.verifiers = verifiers
        self._started.push_async_callback(self.dispatcher.close)

    async def close(self) -> None:
        await self._started.aclose()

    async def _start_plugin(self, name: str, section: PluginSection) -> Verifier:
        setup = WorkerSetup(
            memory_bytes=self._section.memory_mib * MIB,
            deadline_s=section.deadline_s or self._section.deadline_s,
            plugin={"name": name, **section.model_dump(mode="json")},
        )
        pool = WorkerPool(setup, workers=section.workers, attempts=self._section.attempts)
        try:
            await pool.start()
        except (OprimeError, WorkerFailedError) as error:
            log.error("verifier_unusable", verifier=name, reason=str(error))  # noqa: TRY400 - the message is for a person
            return BrokenVerifier(name, str(error))
        return PooledVerifier(pool, name, owned=True)


def config_hash(section: VerifierSection) -> str:
    """Equal for two services whose settings judge alike."""
    return hashlib.sha256(section.model_dump_json(exclude={"workers", "cache_entries", "hold_most"}).encode()).hexdigest()[:16]


def _setup(section: VerifierSection) -> WorkerSetup:
    return WorkerSetup(
        memory_bytes=section.memory_mib * MIB,
        deadline_s=section.deadline_s,
        math=_chosen(section.math),
        code=_chosen(section.code),
        engine=section.sandbox.engine,
    )


def _chosen(section: Any) -> Mapping[str, Any]:
    return section.model_dump(mode="json", exclude_unset=True)
