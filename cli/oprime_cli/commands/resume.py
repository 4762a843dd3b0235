"""`oprime resume RUN`: goes on with an interrupted run."""

import argparse
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_run, add_start_timeout, command_parser
from oprime_cli.console import say

if TYPE_CHECKING:
    from oprime_cli.running.run_folder import RunFolder


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "resume",
        description="Go on with an interrupted run from its last committed step, with the settings in RUN/config.toml. Finished and "
        "verified rollouts are kept; ports that were chosen freely are chosen anew.",
        example="oprime resume runs/demo",
    )
    add_run(parser)
    add_start_timeout(parser)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.planning.plan import make_plan
    from oprime_cli.running.run_folder import find_run, refuse_if_running
    from oprime_cli.running.supervisor import stop_on_signals
    from oprime_cli.running.train_run import train_to_the_end

    folder = find_run(arguments.run)
    refuse_if_running(folder)
    if folder.finished():
        say(f"run {folder.path.name} is finished: its summary is {folder.summary}, its report {folder.report}")
        return 0
    config = folder.load_settings()
    _refuse_fewer_steps(folder, config.run.steps)
    for change in folder.changes(config):
        say(f"resuming with {change}")
    make_plan(config, new_run=False).check()
    with stop_on_signals():
        train_to_the_end(folder, config, start_timeout_s=arguments.start_timeout)
    return 0


def _refuse_fewer_steps(folder: "RunFolder", steps: int) -> None:
    """Raise SettingsError if the run has made more steps already: there is no way back to an earlier step."""
    from oprime.runtime.errors import SettingsError
    from oprime_cli.running.metric_rows import MetricRows

    rows = MetricRows(folder.metrics)
    rows.read_new()
    made = rows.steps[-1]["step"] if rows.steps else 0
    if steps < made:
        raise SettingsError(f"run.steps = {steps} is below the {made} steps that run {folder.path.name} has made: set it to {made} or more")
