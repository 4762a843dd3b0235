"""Arguments and habits that `oprime score` and `oprime best-of-n` have in common."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oprime_cli.scoring.answer_file import Tally


def add_file_and_gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="JSONL file; - for standard input")
    parser.add_argument("--out", metavar="OUT", type=Path, default=None, help="JSONL file for the answers (default: standard output)")
    parser.add_argument("--fresh", action="store_true", help="answer every row again, whatever OUT holds")
    parser.add_argument("--url", metavar="URL", default="", help="the gateway (default: OPRIME_REWARDS, else http://127.0.0.1:8080)")
    parser.add_argument("--key-file", metavar="FILE", type=Path, default=None, help="file with a key of the gateway")
    parser.add_argument("--model", metavar="NAME", default="prm", help="prm@VERSION to accept that version alone (default: prm)")
    parser.add_argument(
        "--reduction", metavar="NAME", default="sum", help="from steps to a response: sum, mean, min, max, ... (docs/api.md)"
    )
    parser.add_argument("--delimiter", metavar="TEXT", default="\n\n", help="text that ends a step (default: an empty line)")


def require_client() -> None:
    """Raises SettingsError where the client's one package is not installed."""
    from oprime.runtime.errors import SettingsError

    if importlib.util.find_spec("httpx") is None:
        raise SettingsError("this command asks a gateway, for which httpx is not installed: pip install oprime[client]")


def url_of(args: argparse.Namespace) -> str:
    return args.url or os.environ.get("OPRIME_REWARDS", "") or "http://127.0.0.1:8080"


@contextmanager
def refusals_explained(args: argparse.Namespace) -> Iterator[None]:
    """Says how a key is given where the gateway asks for another one. Raises SettingsError for options that it refuses."""
    from oprime.client import RefusedError
    from oprime.client.clients import KEY_FILE
    from oprime.runtime.errors import SettingsError

    try:
        yield
    except RefusedError as error:
        if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise SettingsError(str(error)) from error
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        file = args.key_file or os.environ.get(KEY_FILE, "")
        fault = f"the key in {file} is none of the gateway's" if file else "the gateway asks for a key"
        raise RefusedError(
            f"{url_of(args)} answers 401: {fault}; name a file that holds one of its keys with --key-file, or in {KEY_FILE}", error.status
        ) from error


@contextmanager
def progress(file: Path, what: str) -> Iterator[Callable[["Tally"], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda tally: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = None
    if file.is_file():
        with file.open("rb") as stream:
            total = sum(1 for line in stream if line.strip())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda tally: bar.update(task, completed=tally.rows)
