"""What the commands' argument parsers have in common. Imports nothing heavy."""

import argparse
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

DESCRIPTION_WIDTH = 90


def command_parser(subparsers: Subparsers, name: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """A sub-parser whose help ends with an example; where it is listed, the first sentence of its description says what it does."""
    return subparsers.add_parser(
        name,
        help=description.partition(". ")[0].rstrip(".").replace("%", "%%"),
        description="\n".join(textwrap.wrap(description, DESCRIPTION_WIDTH)),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def as_typed(command: str, arguments: argparse.Namespace) -> str:
    """A command with the CONFIG and the settings that it was given, to be typed again."""
    return shlex.join([command, arguments.config, *(word for text in arguments.overrides for word in ("--set", text))])


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments CONFIG, --set and --skip-bad-rows."""
    parser.add_argument("config", metavar="CONFIG", help="TOML file with the run's settings")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, for example --set learner.learning_rate=1e-4; may be given several times",
    )
    parser.add_argument(
        "--skip-bad-rows",
        dest="overrides",
        action="append_const",
        const="tasks.skip_bad_rows=true",
        help="leave out task rows that cannot be used, and count them, instead of stopping",
    )


def add_start_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start-timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=900.0,
        help="give up when a service is not healthy after this long (default: 900)",
    )


def add_run(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """The argument RUN."""
    if optional:
        parser.add_argument("run", metavar="RUN", nargs="?", help="folder of a run, or its name in ./runs (default: the newest that runs)")
    else:
        parser.add_argument("run", metavar="RUN", help="folder of a run, or its name in ./runs")


def positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
