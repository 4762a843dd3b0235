"""`oprime prm`: train an implicit PRM on response-level data, and see what it is worth."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import end_with_launcher, is_rank
from oprime_cli.arguments import Subparsers, command_parser, positive_int, positive_number
from oprime_cli.console import say, show

if TYPE_CHECKING:
    from oprime_cli.offline_prm.plan import OfflinePrm
    from oprime_cli.prm_eval.judging import Judged
    from oprime_cli.prm_eval.models import LocalPrm


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "prm",
        description="Train an implicit PRM on responses that are known to be right or wrong, without a run, and see what it is worth.",
        example="oprime prm train deploy/config/prm/eurusprm-stage1.toml",
    )
    actions = parser.add_subparsers(dest="action", metavar="{train,eval}", required=True)
    _add_train(actions)
    _add_eval(actions)


def _add_train(actions: Subparsers) -> None:
    train = command_parser(
        actions,
        "train",
        description="Train an implicit PRM as the section [offline_prm] says. Goes on where an interrupted call stopped, and does nothing "
        "when the model is there.",
        example="oprime prm train deploy/config/prm/eurusprm-stage1.toml --set offline_prm.data=rows.jsonl",
    )
    train.add_argument("config", metavar="CONFIG", type=Path, help="TOML file with the sections [model] and [offline_prm]")
    train.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, for example --set offline_prm.loss=prefix_value; may be given several times",
    )


def _add_eval(actions: Subparsers) -> None:
    judge = command_parser(
        actions,
        "eval",
        description="Say how well a PRM finds wrong steps (processbench, prmbench) or right responses (best-of).",
        example="oprime prm eval processbench gsm8k.json math.json --prm runs/prm",
    )
    judge.add_argument("kind", choices=("processbench", "prmbench", "best-of"), help="what the files hold, and what is asked of the PRM")
    judge.add_argument("files", metavar="FILE", nargs="+", help="JSON, JSONL or parquet files, or hf://datasets/OWNER/NAME/FILE")
    judge.add_argument("--prm", metavar="MODEL", required=True, help="the PRM: a directory, or an id of the hub")
    judge.add_argument("--reference", metavar="MODEL", default=None, help="its reference (default: the one that it was trained with)")
    judge.add_argument("--beta", metavar="NUMBER", type=positive_number, default=None, help="its beta (default: the one of its training)")
    judge.add_argument("--separator", metavar="TEXT", default=r"\n\n", help=r"what stands between steps (default: \n\n)")
    judge.add_argument(
        "--limit",
        metavar="N",
        type=positive_int,
        default=0,
        help="take so many rows, or prompts, of each file, evenly spread (default: all)",
    )
    judge.add_argument("--reader", metavar="NAME", default="", help="best-of: reader of the rows (default: recognised by the first row)")
    judge.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type to compute in (default: float32)")
    judge.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: a GPU if there is one)"
    )
    judge.add_argument("--pass-tokens", metavar="N", type=positive_int, default=16384, help="tokens per forward pass (default: 16384)")
    judge.add_argument("--out", metavar="FILE", type=Path, default=None, help="JSON file for all numbers")


def run(args: argparse.Namespace) -> int:
    return _run_train(args) if args.action == "train" else _run_eval(args)


def _run_train(args: argparse.Namespace) -> int:
    from oprime_cli.model_training.command import be_a_rank, become_ranks
    from oprime_cli.offline_prm.plan import read_plan

    if is_rank(os.environ):
        end_with_launcher()
        be_a_rank("prm", lambda: _train(read_plan(args.config, args.overrides)))
    configure_logs("prm", level="warning")
    plan = read_plan(args.config, args.overrides)
    if plan.settings.ranks > 1 and not plan.folder.finished():
        words = ["prm", "train", str(args.config), *(part for text in args.overrides for part in ("--set", text))]
        become_ranks(words, plan.folder, ranks=plan.settings.ranks, section="offline_prm")
    _train(plan)
    # Torch takes seconds to import, which `oprime prm --help` need not pay.
    from oprime_cli.model_training.steps import part_for_good

    part_for_good()
    return 0


def _train(plan: "OfflinePrm") -> None:
    from oprime_cli.offline_prm.training import train

    train(plan)


def _run_eval(args: argparse.Namespace) -> int:
    from oprime_cli.files import write_json
    from oprime_cli.prm_eval.models import LocalPrm, prm_source

    configure_logs("prm", level="warning")
    source = prm_source(args.prm, args.reference, args.beta)
    prm = LocalPrm(source, dtype=args.dtype, device=args.device, pass_tokens=args.pass_tokens)
    judged = _judged(prm, args)
    if args.out is not None:
        write_json(args.out, {"kind": args.kind, **asdict(source), "subsets": [asdict(one) for one in judged]})
        say(f"wrote {args.out}")
    return 0


def _judged(prm: "LocalPrm", args: argparse.Namespace) -> "list[Judged]":
    """Measure, and show."""
    from oprime_cli.prm_eval import judging, tables

    separator = args.separator.replace(r"\n", "\n")
    if args.kind == "processbench":
        judged = judging.judge_first_errors(prm, args.files, separator, args.limit)
        show(tables.first_error_table(judged))
    elif args.kind == "prmbench":
        judged = judging.judge_every_step(prm, args.files, separator, args.limit)
        show(tables.every_step_table(judged))
    else:
        judged = judging.judge_best_of(prm, args.files, separator, args.limit, args.reader, answer_of)
        for one in judged:
            show(tables.best_of_table(one))
    return judged


def answer_of(response: str) -> str:
    """What a response to a mathematical problem answers, as text; empty for nothing."""
    from oprime_verifier.math.options import MathOptions
    from oprime_verifier.math.read.extract import extract

    answers = extract(response, MathOptions()).answers
    return answers[0].strip() if answers else ""
