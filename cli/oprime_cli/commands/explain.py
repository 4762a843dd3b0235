"""`oprime explain CONFIG`: the algorithm that a run's settings choose, in words and formulas."""

import argparse
from pathlib import Path

from oprime_cli.arguments import Subparsers, add_config, command_parser


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "explain",
        description="Print the algorithm that a run's settings choose: each term with its formula and the settings behind it. Reads the "
        "settings, which may be given by a run's folder, and of models on this machine how large they are, and starts nothing; exit code 2 "
        "when they contradict each other.",
        example="oprime explain deploy/config/demo.toml --set algorithm.estimator=grpo",
    )
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich.markup import escape
    from rich.table import Table

    from oprime_cli.console import say, show
    from oprime_cli.explanation import summary, terms
    from oprime_cli.overrides import load_config
    from oprime_cli.planning.adapters import savings_of_known_models
    from oprime_cli.running.failures import PlanRefusedError
    from oprime_cli.running.run_folder import RunFolder

    path = Path(arguments.config)
    config = load_config(RunFolder(path).config if path.is_dir() else path, arguments.overrides)
    problems = config.contradictions()
    if problems:
        raise PlanRefusedError(problems)
    for sentence in summary(config):
        say(sentence)
    table = Table("term", "formula", "chosen by", title=f"the algorithm of run {config.run.name}", show_lines=True)
    for term in terms(config):
        table.add_row(*(escape(text) for text in (term.name, term.formula, "\n".join(term.chosen_by))))
    show(table)
    for service, text in savings_of_known_models(config):
        say(f"{service}: {text}")
    say("Symbols, and the function that computes each formula: docs/algorithm.md")
    return 0
