"""What every service process does: read settings, handle signals, run, and say in one line why it ended."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import structlog

from oprime.runtime.errors import FAILED, OprimeError, RunEndedError, SettingsError, exit_code
from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import Hosts, end_with_launcher, is_rank, launch, require_world_size
from oprime.runtime.secret_files import refuse_secrets_in
from oprime.runtime.settings import ServiceSettings

log = structlog.get_logger()

SWITCH_S = 0.0005
"""How long a thread that has an answer from a store waits for Python's lock, at most, where 5 ms are usual: several of these are on the way
of every rollout."""
CANCEL_AGAIN_S = 5.0
"""More than giving work back to the queue takes."""

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
ResultT = TypeVar("ResultT")


class Lifecycle:
    """Whether it can do its work, when to stop, and the background work that stops with the process."""

    def __init__(self, *, own_process: bool = False) -> None:
        """`own_process`: nothing else happens in this process."""
        self.stopping = asyncio.Event()
        self._ready = False
        self._own_process = own_process

    def note_ready(self, ready: bool) -> None:
        self._ready = ready

    async def is_ready(self) -> bool:
        return self._ready

    async def before_serving(self, work: Callable[..., ResultT], *arguments: object) -> ResultT:
        """The result of blocking work in a thread. Asked to stop meanwhile, the process ends at once: the thread may wait for others."""
        working = asyncio.create_task(asyncio.to_thread(work, *arguments))
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            log.info("stopped_cleanly")
            _exit_at_once(0)
        stop.cancel()
        return working.result()

    async def run(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until `stopping` is set, then cancel what is left. The first failure stops everything and is raised."""
        if self._own_process:
            # What was imported stays. The garbage collector would go through all of it again and again, a quarter of a second at a time.
            gc.freeze()
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
            await _cancelled({*tasks, stop})


async def _cancelled(ending: "set[asyncio.Task[Any]]") -> None:
    """Cancel tasks until they have ended: a library may take a cancellation that comes with its own time-out for that, and go on."""
    while ending:
        for task in ending:
            task.cancel()
        _, ending = await asyncio.wait(ending, timeout=CANCEL_AGAIN_S)
        if ending:
            log.warning("cancelled_again", work=sorted(_place(task) for task in ending))


def _place(task: "asyncio.Task[Any]") -> str:
    """What a task is, and where it waits."""
    name = getattr(task.get_coro(), "__qualname__", task.get_name())
    return f"{name} {' '.join(f'{frame.f_code.co_qualname}:{frame.f_lineno}' for frame in task.get_stack(limit=1))}"


def main(
    name: str,
    settings_type: type[SettingsT],
    serve: Callable[[SettingsT, Lifecycle], Awaitable[None]],
    *,
    ranks: Callable[[SettingsT], int] | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run one service: `python -m oprime_NAME CONFIG.toml`. One with `ranks` starts them, unless it is one of them. `loop` makes the event
    loop; Python's own if None.

    Exits 2 on wrong settings, 3 when the run has ended for good and 4 when the settings leave the service nothing to do, so that a
    restart is useless, 1 on any other failure.
    """
    parser = argparse.ArgumentParser(prog=f"python -m oprime_{name}", description=f"The oprime {name} service.")
    parser.add_argument("config", type=Path, help="TOML file of the run")
    arguments = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    configure_logs(name)
    try:
        refuse_secrets_in(os.environ)
        settings = settings_type.load(arguments.config)
        configure_logs(name, run=settings.run.name, level=settings.run.log_level)
        if ranks is not None and (count := ranks(settings)):
            _on_ranks(name, arguments.config, count)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_serve(settings, serve))
    except OprimeError as error:
        log.error(_event(error), error=str(error))  # noqa: TRY400 - the message is for a person
        _exit_at_once(exit_code(error))
    except Exception:
        log.exception("failed")
        _exit_at_once(FAILED)
    # All is closed; taking torch and vLLM apart module by module would cost seconds of a stop.
    _exit_at_once(0)


def _on_ranks(name: str, config: Path, count: int) -> None:
    """Return in a process that is one of `count` ranks, or the only one; otherwise start them, and end as they do."""
    setting = f"{name}.ranks"
    if is_rank(os.environ):
        end_with_launcher()
        require_world_size(os.environ, count, setting)
        return
    hosts = Hosts.of_environment(os.environ)
    if count > 1 or hosts.count > 1:
        sys.exit(launch([sys.executable, "-m", f"oprime_{name}", str(config)], ranks=count, setting=setting, hosts=hosts))


def _event(error: OprimeError) -> str:
    if isinstance(error, RunEndedError):
        return "run_ended"
    return "settings_refused" if isinstance(error, SettingsError) else "stopped"


def _exit_at_once(code: int) -> NoReturn:
    """End without waiting for threads: after a failure one may hang in a call that another rank, now dead, will never answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(settings: SettingsT, serve: Callable[[SettingsT, Lifecycle], Awaitable[None]]) -> None:
    lifecycle = Lifecycle(own_process=True)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lifecycle.stopping.set)
    await serve(settings, lifecycle)
    log.info("stopped_cleanly")
