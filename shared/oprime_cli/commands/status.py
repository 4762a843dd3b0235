"""`oprime status [RUN]`: what a run is doing."""

import argparse
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.console import say, show

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.run_folder import RunFolder


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "status",
        description="Show a run's services and their health, its step and its ledger. Exit code 0 if it is finished or all services are "
        "healthy, else 1.",
        example="oprime status runs/demo",
    )
    add_run(parser, optional=True)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.run_folder import find_running

    folder = find_running(arguments.run, otherwise_newest=True)
    pid = folder.supervisor_pid()
    if pid is None:
        return _stopped(folder)
    say(f"run {folder.path.name} is running (supervisor process {pid}) in {folder.path}")
    if not folder.config.exists():
        say("it is being prepared; its services have not been started yet")
        return 1
    config = RunConfig.load(folder.config)
    healthy = _services(folder, config)
    _progress(folder, config)
    return 0 if healthy else 1


def _stopped(folder: "RunFolder") -> int:
    finished = folder.finished()
    remedy = f"see {folder.report}" if finished else f"go on with: oprime resume {folder.path}"
    say(f"run {folder.path.name} is {'finished' if finished else 'not running'}, last committed step {_last_step(folder)}; {remedy}")
    return 0 if finished else 1


def _services(folder: "RunFolder", config: "RunConfig") -> bool:
    from rich.table import Table

    from oprime_cli.files import read_json
    from oprime_cli.running.health import health_of
    from oprime_cli.running.services import SERVICES

    pids = (read_json(folder.state) or {}).get("services") or {}
    table = Table("service", "address", "process", "health")
    healthy = {service: health_of(service, config.endpoints.listen(service))() for service in SERVICES}
    for service, good in healthy.items():
        table.add_row(service, getattr(config.endpoints, service), str(pids.get(service, "-")), "healthy" if good else "NOT HEALTHY")
    show(table)
    return all(healthy.values())


def _progress(folder: "RunFolder", config: "RunConfig") -> None:
    from oprime_cli.running.coordinator_client import CoordinatorClient, state_name
    from oprime_cli.running.launch import gateway_url
    from oprime_cli.running.live import ledger_line, queues_line

    say(f"gateway {gateway_url(config)}")
    client = CoordinatorClient(config.endpoints.coordinator)
    status = client.status()
    client.close()
    if status is None:
        say(f"the coordinator does not answer; last step in the metrics: {_last_step(folder)}")
        return
    say(f"{state_name(status)}, step {status.step} of {status.total_steps}, waiting for {status.bottleneck or 'nobody'}")
    say(f"queues: {queues_line(status)}")
    say(f"ledger: {ledger_line(dict(status.ledger))}")


def _last_step(folder: "RunFolder") -> int:
    from oprime_cli.running.metric_rows import MetricRows

    rows = MetricRows(folder.metrics)
    rows.read_new()
    return rows.steps[-1]["step"] if rows.steps else 0
