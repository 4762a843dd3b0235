"""`oprime report RUN`: one self-contained HTML file about a run, finished or not."""

import argparse
from pathlib import Path

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.files import write_atomically
from oprime_cli.running.run_folder import RunFolder, find_run


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "report",
        description="Write RUN/report.html: curves, error localisation and coloured rollouts, in one file that needs no network.",
        example="oprime report runs/demo",
    )
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    print(write_report(find_run(arguments.run).path))  # noqa: T201 - the command's answer
    return 0


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from the files of the run folder and return its path.

    Raises UnusableInputError or SettingsError when the folder is no run or one of its files is damaged.
    """
    # Drawing costs half a second of imports, which `oprime report --help` need not pay.
    from oprime_cli.report.data import read_run
    from oprime_cli.report.page import render

    path = RunFolder(run_folder).report
    write_atomically(path, render(read_run(run_folder)))
    return path
