"""The Redis of a run, and the queue in it."""

import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import structlog

from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_queue import RedisQueue
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import ServiceDiedError
from oprime_cli.running.log_lines import last_error
from oprime_cli.running.run_folder import EMBEDDED, RunFolder, sole_supervisor
from oprime_cli.running.supervisor import Guard

LOAD_TIMEOUT_S = 600.0
"""A large append-only file takes long to load."""


@dataclass(frozen=True, slots=True)
class RunRedis:
    """Redis as a run uses it."""

    url: str
    check: Callable[[], None]
    """Raises ServiceDiedError when the run's own server has ended."""


@contextlib.contextmanager
def run_redis(folder: RunFolder, config: RunConfig, guard: Guard) -> Iterator[RunRedis]:
    """The run's own server for the length of the block if queue.url is `embedded`, else the server that it names."""
    if config.queue.url != EMBEDDED:
        yield RunRedis(config.queue.url, check=lambda: None)
        return
    _warnings_to_stderr()
    log = folder.logs / "redis.log"
    with LocalRedis.start(folder.redis, log_file=log, timeout_s=LOAD_TIMEOUT_S) as server:
        # Redis sets a title of its own and so loses the marker of its environment.
        guard.watch(server.pid)

        def check() -> None:
            if not server.running:
                raise ServiceDiedError(f"redis ended; its log {log} says: {last_error(log)}")

        yield RunRedis(server.url, check)


@contextlib.contextmanager
def reachable_redis(folder: RunFolder) -> Iterator[RunConfig]:
    """Settings with an address of Redis that answers: the running one's, or that of a server started for the block.

    Raises BusyError if a supervisor starts meanwhile.
    """
    if folder.supervisor_pid() is not None:
        running = folder.load_settings(real_addresses=True)
        if running.queue.url != EMBEDDED:
            yield running
            return
    config = folder.load_settings()
    with sole_supervisor(folder), Guard() as guard, run_redis(folder, config, guard) as redis:
        yield config.model_copy(update={"queue": config.queue.model_copy(update={"url": redis.url})})


@contextlib.asynccontextmanager
async def open_queue(config: RunConfig) -> AsyncIterator[RedisQueue]:
    """The run's queue, ledger and dead letters."""
    queue = RedisQueue.of_run(config.own_queue, config.run.name)
    try:
        await queue.ping()
        yield queue
    finally:
        await queue.close()


def _warnings_to_stderr() -> None:
    """Standard output belongs to the command's answer."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING), logger_factory=structlog.WriteLoggerFactory(sys.stderr)
    )
