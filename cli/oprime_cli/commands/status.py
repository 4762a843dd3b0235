"""`oprime status [RUN]`: what a run is doing."""

import argparse
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.console import say, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    from oprime_cli.files import read_json
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.run_folder import find_running, is_open

    folder = find_running(arguments.run, otherwise_newest=True)
    pid = folder.supervisor_pid()
    if pid is None:
        return _unsupervised(folder)
    say(f"run {folder.path.name} is running (supervisor process {pid}) in {folder.path}")
    config = RunConfig.load(folder.config)
    if is_open(config):
        say("it is being prepared; its services have not been started yet")
        return 1
    healthy = _services(config, config.endpoints.local, (read_json(folder.state) or {}).get("services") or {})
    return 0 if _progress(folder, config) and healthy else 1


def _unsupervised(folder: "RunFolder") -> int:
    """A run that nobody here supervises: stopped, or in containers or pods, where its coordinator answers for it."""
    from oprime_cli.run_config import RunConfig
    from oprime_cli.running.coordinator_client import CoordinatorClient
    from oprime_cli.running.run_folder import is_open

    config = RunConfig.load(folder.config)
    # Where a supervisor was, somebody else may have the ports by now.
    by_itself = not folder.state.exists() and not is_open(config)
    client = CoordinatorClient(config.endpoints.coordinator, config.endpoints.tls)
    answers = by_itself and client.status() is not None
    client.close()
    if not answers:
        return _stopped(folder, config, again="start its services again" if by_itself else f"oprime resume {folder.path}")
    say(f"run {folder.path.name} is running, its services each by itself, in {folder.path}")
    healthy = _services(config, lambda service: getattr(config.endpoints, service), {})
    return 0 if _progress(folder, config) and healthy else 1


def _stopped(folder: "RunFolder", config: "RunConfig", *, again: str) -> int:
    from oprime.lm.checkpoints import checkpoint_root, newest_for_run, parts_of

    # The coordinator's part of the last checkpoint is the last that a run writes.
    newest = newest_for_run(checkpoint_root(folder.path), parts_of(config.algorithm))
    finished = folder.finished() or (newest is not None and newest[0] >= config.run.steps)
    remedy = f"see {folder.report}" if finished else f"go on with: {again}"
    say(f"run {folder.path.name} is {'finished' if finished else 'not running'}, last committed step {_last_step(folder)}; {remedy}")
    return 0 if finished else 1


def _services(config: "RunConfig", address_of: "Callable[[str], str]", pids: "Mapping[str, int]") -> bool:
    from rich.table import Table

    from oprime.runtime.setting_rules import services_of
    from oprime_cli.running.health import health_of

    table = Table("service", "address", "process", "health")
    tls = config.endpoints.tls
    healthy = {service: health_of(service, address_of(service), tls)() for service in services_of(config.algorithm)}
    for service, good in healthy.items():
        table.add_row(service, getattr(config.endpoints, service), str(pids.get(service, "-")), "healthy" if good else "NOT HEALTHY")
    show(table)
    return all(healthy.values())


def _progress(folder: "RunFolder", config: "RunConfig") -> bool:
    """Say how far the run is; whether Redis still holds it, as far as the coordinator can tell."""
    from oprime_cli.running.coordinator_client import CoordinatorClient, is_emptied, state_name
    from oprime_cli.running.launch import gateway_url
    from oprime_cli.running.live import ledger_line, queues_line

    say(f"gateway {gateway_url(config)}")
    client = CoordinatorClient(config.endpoints.coordinator, config.endpoints.tls)
    status = client.status()
    client.close()
    if status is None:
        say(f"the coordinator does not answer; last step in the metrics: {_last_step(folder)}")
        return True
    say(f"{state_name(status)}, step {status.step} of {status.total_steps}, waiting for {status.bottleneck or 'nobody'}")
    if status.stalled:
        say(f"stalled: {status.stalled}")
    say(f"queues: {queues_line(status)}")
    say(f"ledger: {ledger_line(dict(status.ledger))}")
    if is_emptied(status):
        say(
            f"Redis holds nothing of run {config.run.name}: the server was emptied; stop the run (oprime down {folder.path}), then "
            f"`oprime resume {folder.path}` goes on from the newest checkpoint"
        )
        return False
    return True


def _last_step(folder: "RunFolder") -> int:
    from oprime_cli.running.metric_rows import MetricRows

    rows = MetricRows(folder.metrics)
    rows.read_new()
    return rows.steps[-1]["step"] if rows.steps else 0
