"""`oprime best-of-n FILE.jsonl`: the best of several responses to each prompt, by a gateway."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oprime_cli.arguments import Subparsers, command_parser
from oprime_cli.scoring.gateway_arguments import add_file_and_gateway, progress, refusals_explained, require_client, url_of

if TYPE_CHECKING:
    from oprime_cli.scoring.answer_file import Row, Tally

WINDOW = 16
"""Rows under way; each is a request of its own."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "best-of-n",
        description='Choose among responses, one JSON object per line: {"id"?, "prompt" or "messages", "responses": [...]}. The best is '
        "the response with the highest reward, or with --vote the answer that most rewards vote for. An interrupted run goes on where it "
        "was; rows that failed or changed since, and all when the options did, are asked anew. Exit code 0 when every row has a best "
        "response.",
        example="oprime best-of-n candidates.jsonl --out best.jsonl --vote --verifier math",
    )
    add_file_and_gateway(parser)
    parser.add_argument("--vote", action="store_true", help="let rewards vote for answers; equal ones are merged by the verifier")
    parser.add_argument("--verifier", metavar="KIND", default=None, help="who reads and compares answers in a vote (default: math)")
    parser.add_argument(
        "--weight", choices=("sigmoid", "softmax", "none"), default=None, help="what a response counts in a vote (default: sigmoid)"
    )


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.errors import SettingsError
    from oprime.runtime.logs import configure_logs
    from oprime_cli.lock_file import sole_writer
    from oprime_cli.output_files import begin_anew, check_outputs
    from oprime_cli.scoring.answer_file import summary

    configure_logs("best-of-n", level="error")
    require_client()
    if not args.vote and (args.verifier or args.weight):
        raise SettingsError("--verifier and --weight are for votes: add --vote, or leave them out")
    check_outputs({"FILE": args.file, "--key-file": args.key_file}, {"--out": args.out})
    with sole_writer(args.out, "oprime best-of-n"):
        if args.fresh:
            begin_anew(args.out)
        with progress(args.file, "best-of-n") as note, refusals_explained(args):
            tally = asyncio.run(_choose(args, note))
    sys.stderr.write(summary(tally) + "\n")
    return 0 if not tally.failed else 1


async def _choose(args: argparse.Namespace, note: Callable[["Tally"], None]) -> "Tally":
    from oprime.client import AsyncRewardClient, BestOfNOptions
    from oprime_cli.scoring.answer_file import answer_file
    from oprime_cli.scoring.best_of_n import ChooseRows, problem_of, require_verifier

    options: BestOfNOptions = {"model": args.model, "steps": {"delimiter": args.delimiter}, "sequence_reduction": args.reduction}
    if args.vote:
        options |= {"method": "vote", "verifier": {"kind": args.verifier or "math"}, "weight": args.weight or "sigmoid"}
    sink = _print if args.out is None else _nothing
    async with AsyncRewardClient(url_of(args), key_file=args.key_file) as client:
        if args.vote:
            await require_verifier(client, args.verifier or "math")
        ask = ChooseRows(client, options)
        return await answer_file(args.file, args.out, sink, ask, problem_of, note, options=options, window=WINDOW)


def _print(row: "Row", answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _nothing(row: "Row", answer: dict[str, Any]) -> None:
    pass
