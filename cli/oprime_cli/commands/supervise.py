"""`oprime supervise RUN`: what `oprime up` leaves in the background. Not for people."""

import argparse
import time
from pathlib import Path

from oprime_cli.arguments import Subparsers, add_start_timeout, command_parser
from oprime_cli.console import say

CHECK_EVERY_S = 0.5


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "supervise",
        description="Run the services of a run without training, until SIGTERM. `oprime up` starts this in the background.",
        example="oprime supervise runs/demo",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    add_start_timeout(parser)


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.running.launch import launched
    from oprime_cli.running.run_folder import RunFolder, sole_supervisor
    from oprime_cli.running.supervisor import stop_on_signals
    from oprime_cli.running.train_run import StartProgress, say_started

    folder = RunFolder(Path(arguments.run).absolute())
    config = folder.load_settings()
    with stop_on_signals(), sole_supervisor(folder):
        folder.write_state(state="starting", mode="serve")
        try:
            with launched(folder, config, timeout_s=arguments.start_timeout, serve_only=True, tick=StartProgress()) as services:
                say_started(services, mode="serve")
                while True:
                    services.check()
                    time.sleep(CHECK_EVERY_S)
        except KeyboardInterrupt:
            say("stopped on request")
        finally:
            folder.write_state(state="stopped", mode="serve")
    return 0
