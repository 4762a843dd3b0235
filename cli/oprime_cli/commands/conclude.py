"""`oprime conclude CONFIG`: the end of a run whose services nobody supervises."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime_cli.arguments import Subparsers, command_parser

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig

LOOK_EVERY_S = 1.0


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "conclude",
        description="Wait for the end of a run whose services run by themselves, in containers or pods; then account for every rollout "
        "and write the run's summary and report. Exit code 1 if the ledger is not closed.",
        example="oprime conclude /etc/oprime/run.toml",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="TOML file with the run's settings, as its services read it")


def run(arguments: argparse.Namespace) -> int:
    from oprime.runtime.logs import configure_logs
    from oprime_cli.commands.report import write_report
    from oprime_cli.console import say
    from oprime_cli.files import write_json
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.audit import audit
    from oprime_cli.running.metric_rows import MetricRows
    from oprime_cli.running.run_folder import RunFolder
    from oprime_cli.running.summary import closing_lines, make_summary

    configure_logs("conclude", level="warning")
    config = RunConfig.load(arguments.config)
    folder = RunFolder(config.run.folder.absolute())
    asyncio.run(_wait_for_the_end(config))
    found = asyncio.run(audit(config))
    rows = MetricRows(folder.metrics)
    rows.read_new()
    seconds = {"train": rows.last("elapsed_s") or 0.0, "evaluate": 0.0}
    summary = make_summary(config, rows, found, seconds=seconds, localisation=_localisation(folder.path, config))
    write_json(folder.summary, summary)
    say(f"run {config.run.name} is finished: {config.run.steps} steps")
    for line in (*closing_lines(summary), *found.findings):
        say(line)
    say(f"report: {write_report(folder.path)}")
    return 0 if found.closed else 1


async def _wait_for_the_end(config: "RunConfig") -> None:
    """Until the run has finished and, where services end with it, the coordinator has left as the last of them."""
    from oprime.adapters.redis_queue import RedisQueue
    from oprime.adapters.system_clock import SystemClock
    from oprime.runtime.run_end import is_over
    from oprime_cli.running.coordinator_client import CoordinatorClient

    clock = SystemClock()
    queue = RedisQueue.of_run(config.own_queue, config.run.name)
    try:
        while not await is_over(queue, config.run.steps, clock):
            await clock.sleep(LOOK_EVERY_S)
    finally:
        await queue.close()
    coordinator = CoordinatorClient(config.endpoints.coordinator, config.endpoints.tls)
    while config.run.when_finished == "exit" and coordinator.status() is not None:
        time.sleep(LOOK_EVERY_S)  # noqa: ASYNC251 - nothing else is going on
    coordinator.close()


def _localisation(folder: Path, config: "RunConfig") -> dict[str, Any]:
    """How well process rewards find the first wrong step, where the PRM is still there to be asked."""
    from oprime.runtime.errors import NotReadyError
    from oprime_cli.report.localisation import measure

    if config.run.when_finished == "exit":
        return {}
    try:
        return dict(measure(folder, config) or {})
    except NotReadyError:
        return {}
