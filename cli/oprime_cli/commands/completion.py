"""`oprime completion bash|zsh`: the script that completes commands, options and files in a shell. shtab writes it from the parsers."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from oprime.runtime.errors import SettingsError
from oprime_cli.arguments import Subparsers, command_parser

FILES = frozenset({"CONFIG", "FILE", "OUT", "PAGE"})
FOLDERS = frozenset({"DIR", "FOLDER", "MODEL", "RUN", "RUN[@VERSION]"})
"""What the names of arguments stand for; those of other names are words that only a person knows."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "completion",
        description="Print a script with which a shell completes commands, options, and the names of files and folders. For bash, "
        '`eval "$(oprime completion bash)"` in ~/.bashrc takes it; for zsh, write it as _oprime into a folder of $fpath.',
        example="oprime completion zsh > ~/.zfunc/_oprime",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that is to complete")


def run(arguments: argparse.Namespace) -> int:
    sys.stdout.write(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell. Raises SettingsError where shtab is missing."""
    from oprime_cli.main import whole_parser

    try:
        import shtab
    except ImportError as error:
        raise SettingsError("oprime completion needs the package shtab: pip install 'oprime[local]'") from error
    parser = whole_parser()
    for action in _actions(parser):
        if action.metavar in FILES | FOLDERS and not action.choices:
            complete = shtab.FILE if action.metavar in FILES else shtab.DIRECTORY
            action.complete = complete  # pyright: ignore[reportAttributeAccessIssue] - where shtab looks for it
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        commands: dict[str, Any] = action.choices if isinstance(action, argparse._SubParsersAction) else {}  # pyright: ignore[reportAssignmentType]
        for one in commands.values():
            yield from _actions(one)
