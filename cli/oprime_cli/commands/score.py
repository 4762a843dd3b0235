"""`oprime score FILE.jsonl`: process rewards of a file of responses, by a gateway."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from oprime_cli.arguments import Subparsers, command_parser
from oprime_cli.scoring.gateway_arguments import add_file_and_gateway, progress, refusals_explained, require_client, url_of

if TYPE_CHECKING:
    from oprime.client.forms import Options
    from oprime_cli.scoring.answer_file import Row, Tally

WINDOW = 256
"""Rows under way."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "score",
        description="Process rewards of a file of responses, one JSON object per line: prompt and response, or messages, or "
        "prompt_token_ids and response_token_ids, and perhaps an id. Results come in the order of the rows; an interrupted run goes on "
        "where it was; rows that failed or changed since, and all when the options did, are scored anew. Exit code 0 when every row was "
        "scored.",
        example="oprime score answers.jsonl --out rewards.jsonl --steps --html rewards.html",
    )
    add_file_and_gateway(parser)
    parser.add_argument("--steps", action="store_true", help="also the rewards of steps")
    parser.add_argument("--tokens", action="store_true", help="also the rewards of tokens, with their texts and places")
    parser.add_argument("--end-token", choices=("include", "exclude"), default="include", help="whether the end token counts")
    parser.add_argument(
        "--truncation", choices=("error", "left", "right"), default="error", help="what becomes of a row that is too long (default: error)"
    )
    parser.add_argument("--show", action="store_true", help="show each response coloured by its token rewards, instead of its row")
    parser.add_argument("--html", metavar="PAGE", type=Path, default=None, help="write a page of coloured responses; needs --out")


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.errors import SettingsError
    from oprime.runtime.logs import configure_logs
    from oprime.runtime.whole_files import is_stream
    from oprime_cli.lock_file import sole_writer
    from oprime_cli.output_files import STDIN, begin_anew, check_outputs
    from oprime_cli.scoring.answer_file import summary

    configure_logs("score", level="error")
    require_client()
    if args.html is not None and (args.out is None or is_stream(args.out) or args.file == STDIN):
        raise SettingsError("--html needs a FILE and an --out that is a file: the page is made of both when all is scored")
    check_outputs({"FILE": args.file, "--key-file": args.key_file}, {"--out": args.out, "--html": args.html})
    with sole_writer(args.out, "oprime score"):
        if args.fresh:
            begin_anew(args.out)
        with progress(args.file, "score") as note, refusals_explained(args):
            tally = asyncio.run(_score(args, note))
        if args.html is not None:
            _write_page(args)
    sys.stderr.write(summary(tally) + "\n")
    return 0 if not tally.failed else 1


async def _score(args: argparse.Namespace, note: Callable[["Tally"], None]) -> "Tally":
    from oprime.client import AsyncRewardClient
    from oprime_cli.scoring.answer_file import answer_file
    from oprime_cli.scoring.score import ScoreRows, problem_of

    async with AsyncRewardClient(url_of(args), key_file=args.key_file) as client:
        options = _options(args)
        ask = ScoreRows(client, options)
        return await answer_file(args.file, args.out, _sink(args), ask, problem_of, note, options=options, window=WINDOW)


def _options(args: argparse.Namespace) -> "Options":
    tokens = args.tokens or args.show or args.html is not None
    granularity: list[Literal["token", "step", "sequence"]] = ["sequence"]
    if args.steps:
        granularity.append("step")
    if tokens:
        granularity.append("token")
    options: Options = {
        "model": args.model,
        "granularity": granularity,
        "steps": {"delimiter": args.delimiter},
        "sequence_reduction": args.reduction,
        "end_token": args.end_token,
        "truncation": args.truncation,
        # Shortest decimals, for files that people read.
        "encoding_format": "float",
    }
    return {**options, "include": ["tokens", "offsets"]} if tokens else options


def _sink(args: argparse.Namespace) -> Callable[["Row", dict[str, Any]], None]:
    """Where answers go besides --out."""
    if args.show:
        return _show
    return (lambda row, answer: None) if args.out is not None else _print


def _print(row: "Row", answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _show(row: "Row", answer: dict[str, Any]) -> None:
    from rich.text import Text

    from oprime_cli.console import show
    from oprime_cli.scoring.heat_map import for_terminal, harmless, stretches
    from oprime_cli.scoring.score import response_text

    name = row.id if row.id is not None else row.number
    if "tokens" not in answer:
        show(Text(harmless(f"{name}: {answer['error']}")))
        return
    pieces = stretches(response_text(row.value, answer), answer["tokens"])
    show(for_terminal(f"{name}: {answer['reward']:.6g}", pieces))


def _write_page(args: argparse.Namespace) -> None:
    from oprime.runtime.errors import UnusableInputError
    from oprime.runtime.whole_files import whole_file
    from oprime_cli.scoring.heat_map import page

    try:
        with whole_file(args.html) as stream:
            stream.writelines(part.encode() for part in page(f"Rewards of {args.file.name}", _articles(args)))
    except OSError as error:
        raise UnusableInputError(f"--html {args.html} cannot be written: {error.strerror or error}") from error


def _articles(args: argparse.Namespace) -> Iterator[str]:
    from oprime_cli.continued_file import rows_in
    from oprime_cli.scoring.answer_file import rows_of
    from oprime_cli.scoring.heat_map import article, failed_article, stretches
    from oprime_cli.scoring.score import problem_of, prompt_text, response_text

    for row, answer in zip(rows_of(args.file, problem_of), rows_in(args.out), strict=True):
        name = str(row.id if row.id is not None else row.number)
        if "tokens" not in answer:
            yield failed_article(name, answer["error"])
            continue
        yield article(name, prompt_text(row.value), stretches(response_text(row.value, answer), answer["tokens"]), answer["reward"])
