"""`oprime sft`: fine-tune a causal language model on demonstrations, with the engine of policy and PRM."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import end_with_launcher, is_rank
from oprime_cli.arguments import Subparsers, command_parser

if TYPE_CHECKING:
    from oprime_cli.warm_up.plan import WarmUpSettings


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "sft",
        description="Fine-tune a causal language model on demonstrations, as the section [sft] says. "
        "Goes on where an interrupted call stopped, and does nothing when the model is there.",
        example="oprime sft deploy/config/eurus-2-7b-sft.toml --set sft.demonstrations=rows.jsonl",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="TOML file with the sections [model] and [sft]")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, for example --set sft.learning_rate=1e-5; may be given several times",
    )
    parser.add_argument(
        "--skip-bad-rows",
        dest="overrides",
        action="append_const",
        const="sft.skip_bad_rows=true",
        help="leave out demonstrations that cannot be used, and count them, instead of stopping",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="look at model and data, show the first demonstration as the model will see it, and train nothing; exit code 2 on problems",
    )


def run(args: argparse.Namespace) -> int:
    from oprime_cli.model_training.command import be_a_rank, become_ranks
    from oprime_cli.warm_up.plan import plan_warm_up, read_settings

    config = read_settings(args.config, args.overrides)
    if is_rank(os.environ):
        end_with_launcher()
        be_a_rank("sft", lambda: _train(config))
    configure_logs("sft", level="warning")
    plan = plan_warm_up(config)
    if args.dry_run:
        from oprime_cli.warm_up.preview import preview, show_preview

        show_preview(plan, preview(plan))
        return 0
    if plan.settings.ranks > 1 and not plan.folder.finished():
        words = ["sft", str(args.config), *(part for text in args.overrides for part in ("--set", text))]
        become_ranks(words, plan.folder, ranks=plan.settings.ranks, section="sft")
    _train(config)
    # Torch takes seconds to import, which `oprime sft --help` need not pay.
    from oprime_cli.model_training.steps import part_for_good

    part_for_good()
    return 0


def _train(config: "WarmUpSettings") -> None:
    from oprime_cli.warm_up.training import train

    train(config)
