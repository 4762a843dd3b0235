"""`oprime train CONFIG`: a whole training run."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_config, add_start_timeout, as_typed, command_parser

if TYPE_CHECKING:
    from oprime_cli.running.devices import Gpu

GIB = 2**30


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "train",
        description="Train a model: check the plan, warm the model up if [sft] asks for it, start all services, watch them until the last "
        "step, report, and stop them. Ctrl-C stops everything in order; `oprime resume` goes on.",
        example="oprime train deploy/config/demo.toml --set run.steps=20 --set learner.learning_rate=1e-4",
    )
    add_config(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and print the plan, start nothing; exit code 2 on problems"
    )
    parser.add_argument(
        "--gpus",
        metavar="N:GIB",
        type=gpus_of,
        default=None,
        help="with --dry-run: plan for a machine with N GPUs of so much memory each, for example 8:80, instead of this one",
    )
    parser.add_argument("--fresh", action="store_true", help="delete an existing run of this name and begin anew")
    add_start_timeout(parser)


def gpus_of(text: str) -> "list[Gpu]":
    """N:GIB, such as 8:80."""
    from oprime_cli.running.devices import Gpu

    found = re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no N:GIB: write the number of GPUs and the GiB of one, for example 8:80")
    return [Gpu(str(number), int(found[2]) * GIB) for number in range(int(found[1]))]


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.overrides import load_config
    from oprime_cli.paths import absolute_paths
    from oprime_cli.planning.plan import make_plan
    from oprime_cli.planning.plan_view import show_plan
    from oprime_cli.running.failures import UsageError
    from oprime_cli.running.run_folder import RunFolder, prepare_folder, refuse_existing
    from oprime_cli.running.supervisor import stop_on_signals

    if arguments.gpus and not arguments.dry_run:
        raise UsageError("--gpus plans for another machine, and this one is to train: add --dry-run, or leave it out")
    config = absolute_paths(load_config(Path(arguments.config), arguments.overrides))
    plan = make_plan(config, new_run=not arguments.fresh, gpus=arguments.gpus)
    show_plan(plan)
    plan.check()
    command = as_typed("train", arguments)
    if arguments.dry_run:
        refuse_existing(RunFolder(config.run.folder), fresh=arguments.fresh, command=command)
        return 0
    from oprime_cli.running.train_run import train_to_the_end

    folder = prepare_folder(config, fresh=arguments.fresh, command=command)
    folder.begin(config)
    with stop_on_signals():
        train_to_the_end(folder, config, start_timeout_s=arguments.start_timeout)
    return 0
