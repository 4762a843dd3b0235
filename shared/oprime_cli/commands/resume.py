"""`oprime resume RUN`: goes on with an interrupted run."""

import argparse

from oprime_cli.arguments import Subparsers, add_run, add_start_timeout, command_parser
from oprime_cli.console import say


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "resume",
        description="Go on with an interrupted run from its last committed step, with its own settings. Finished and verified rollouts are "
        "kept; ports that were chosen freely are chosen anew.",
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
    config = folder.load_original()
    make_plan(config, new_run=False).check()
    with stop_on_signals():
        train_to_the_end(folder, config, start_timeout_s=arguments.start_timeout)
    return 0
