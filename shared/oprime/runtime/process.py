"""What every service process does: read settings, handle signals, run, and say in one line why it ended."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog

from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.logs import configure_logs
from oprime.runtime.settings import ServiceSettings

log = structlog.get_logger()

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class Lifecycle:
    """When to stop, and the background work that stops with the process."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()

    async def run(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until `stopping` is set, then cancel what is left. The first failure stops everything and is raised."""
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        stop = asyncio.create_task(self.stopping.wait())
        try:
            waiting = {*tasks, stop}
            while waiting and not stop.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if waiting == {stop}:
                    break
        finally:
            self.stopping.set()
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.wait([*tasks, stop])


def main(name: str, settings_type: type[SettingsT], serve: Callable[[SettingsT, Lifecycle], Awaitable[None]]) -> None:
    """Run one service: `python -m oprime_NAME CONFIG.toml`. Exits 2 on wrong settings, 1 on a failure."""
    parser = argparse.ArgumentParser(prog=f"python -m oprime_{name}", description=f"The oprime {name} service.")
    parser.add_argument("config", type=Path, help="TOML file of the run")
    arguments = parser.parse_args()
    configure_logs(name)
    try:
        settings = settings_type.load(arguments.config)
        asyncio.run(_serve(settings, serve))
    except SettingsError as error:
        log.error("settings_refused", error=str(error))  # noqa: TRY400 - the message is for a person
        sys.exit(2)
    except OprimeError as error:
        log.error("stopped", error=str(error))  # noqa: TRY400 - the message is for a person
        sys.exit(1)


async def _serve(settings: SettingsT, serve: Callable[[SettingsT, Lifecycle], Awaitable[None]]) -> None:
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lifecycle.stopping.set)
    await serve(settings, lifecycle)
    log.info("stopped_cleanly")
