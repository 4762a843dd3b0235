"""`oprime sft`: make the starting model by supervised training on demonstrations, with the engine of policy and PRM."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from oprime.runtime.logs import configure_logs
from oprime.runtime.rank_launcher import end_with_launcher, is_rank
from oprime_cli.arguments import Subparsers, add_config, command_parser

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "sft",
        description="Make the starting model by supervised training on demonstrations, as the section [sft] says. "
        "Goes on where an interrupted call stopped, and does nothing when the model is there.",
        example="oprime sft deploy/config/demo.toml --set sft.threads=1",
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from oprime_cli.model_training.command import be_a_rank, become_ranks
    from oprime_cli.overrides import load_config
    from oprime_cli.warm_up.plan import plan_warm_up

    config = load_config(Path(args.config), args.overrides)
    if is_rank(os.environ):
        end_with_launcher()
        be_a_rank("sft", lambda: _train(config))
    configure_logs("sft", level="warning")
    plan = plan_warm_up(config)
    if plan.settings.ranks > 1 and not plan.folder.finished():
        words = ["sft", args.config, *(part for text in args.overrides for part in ("--set", text))]
        become_ranks(words, plan.folder, ranks=plan.settings.ranks, section="sft")
    _train(config)
    # Torch takes seconds to import, which `oprime sft --help` need not pay.
    from oprime_cli.model_training.steps import part_for_good

    part_for_good()
    return 0


def _train(config: "RunConfig") -> None:
    from oprime_cli.warm_up.training import train

    train(config)
