"""`oprime sft`: make the starting model by supervised training on demonstrations.

One process, any causal language model that fits it. For larger models use any trainer that writes Hugging Face form, and
name its output in model.path.
"""

import argparse
from pathlib import Path

from oprime_cli.arguments import Subparsers, add_config, command_parser


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
    # Torch takes seconds to import, which `oprime sft --help` need not pay.
    from oprime_cli.overrides import load_config
    from oprime_cli.warm_up.training import train

    train(load_config(Path(args.config), args.overrides))
    return 0
