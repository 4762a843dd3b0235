"""When a service ends with its run."""

import asyncio
from pathlib import Path

import pytest

from fakes import ManualClock
from oprime.adapters.memory_queue import MemoryQueue
from oprime.runtime.run_end import FINISHED, SUPERVISED, end_with_run, is_noticed_to_be_over, is_over, say_finished
from oprime.runtime.settings import RunSection
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices
from oprime_cli.running.services import environment

EXIT = RunSection(name="one", steps=60, when_finished="exit")


class Service:
    """A service that ends with its run, on a clock that a test moves."""

    def __init__(self, run: RunSection = EXIT) -> None:
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock)
        self.stopping = asyncio.Event()
        self.saved = True
        self.work = asyncio.create_task(end_with_run(self.queue, run, self.clock, self.stopping, all_done=lambda: self.saved))

    async def after(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        await self.clock.run_for(seconds)
        self.work.cancel()
        return self.stopping.is_set()


async def test_a_service_ends_once_its_run_has_finished() -> None:
    service = Service()
    await service.clock.run_for(100)
    assert not service.stopping.is_set()
    await say_finished(service.queue, 60, service.clock)
    assert await service.after(1.5)


async def test_a_verifier_hears_of_it_without_reading_values() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock)
    await queue.put_notice(FINISHED, b"60")
    assert await is_noticed_to_be_over(queue, 60, clock)
    assert not await is_over(queue, 60, clock)
    await say_finished(queue, 60, clock)
    assert await is_over(queue, 60, clock)
    assert not await is_noticed_to_be_over(queue, 61, clock)


async def test_a_run_that_was_finished_and_got_more_steps_is_not_over() -> None:
    service = Service()
    await say_finished(service.queue, 40, service.clock)
    assert not await is_over(service.queue, 60, service.clock)
    assert not await service.after(100)


async def test_a_trainer_saves_its_last_checkpoint_first() -> None:
    service = Service()
    service.saved = False
    await say_finished(service.queue, 60, service.clock)
    await service.clock.run_for(100)
    assert not service.stopping.is_set()
    service.saved = True
    assert await service.after(1.5)


async def test_a_service_that_is_to_serve_goes_on() -> None:
    service = Service(RunSection(name="one", steps=60))
    await say_finished(service.queue, 60, service.clock)
    assert not await service.after(100)


async def test_a_service_that_somebody_supervises_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUPERVISED, "1")
    service = Service()
    await say_finished(service.queue, 60, service.clock)
    assert not await service.after(100)


def test_the_supervisor_of_a_run_says_that_it_supervises() -> None:
    config = RunConfig.load(Path(__file__).parents[3] / "deploy/config/demo.toml")
    for service in ("coordinator", "generator", "gateway"):
        assert environment(config, service, Devices(), serve_only=False)[SUPERVISED] == "1"
