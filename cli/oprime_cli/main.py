"""The `oprime` command. A command's module is imported only when the command is named."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from oprime.runtime.errors import OprimeError, did_you_mean, exit_code
from oprime_cli.arguments import Subparsers

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("oprime_cli.commands.train", "train a model: start all services, watch them, report, stop them"),
    "resume": ("oprime_cli.commands.resume", "go on with an interrupted run from its last committed step"),
    "up": ("oprime_cli.commands.up", "start all services in the background without training"),
    "down": ("oprime_cli.commands.down", "stop a run's services"),
    "status": ("oprime_cli.commands.status", "show services, step and ledger of a run"),
    "sft": ("oprime_cli.commands.sft", "fine-tune the starting model on demonstrations"),
    "prm": ("oprime_cli.commands.prm", "train and judge an implicit PRM without a run"),
    "prepare": ("oprime_cli.commands.prepare", "make a run ready whose services containers or pods start"),
    "conclude": ("oprime_cli.commands.conclude", "wait for the end of such a run, account for it and write its report"),
    "explain": ("oprime_cli.commands.explain", "print the algorithm that a run's settings choose, in words and formulas"),
    "eval": ("oprime_cli.commands.eval", "say how well a model solves benchmarks or problems of your own"),
    "verify": ("oprime_cli.commands.verify", "judge a file of responses on this machine"),
    "verifier": ("oprime_cli.commands.verifier", "test whether a verifier keeps the contract"),
    "score": ("oprime_cli.commands.score", "process rewards of a file of responses, by a gateway"),
    "best-of-n": ("oprime_cli.commands.best_of_n", "choose among responses to each prompt of a file, by a gateway"),
    "serve": ("oprime_cli.commands.serve", "run one service by itself"),
    "data": ("oprime_cli.commands.data", "make training data of published data sets, and demonstrations of the seven actions"),
    "tasks": ("oprime_cli.commands.tasks", "look at and check the tasks of a run"),
    "report": ("oprime_cli.commands.report", "write the report of a run"),
    "k8s": ("oprime_cli.commands.k8s", "make the manifests of a run on Kubernetes"),
    "ledger": ("oprime_cli.commands.ledger", "account for every rollout of a run"),
    "dead-letters": ("oprime_cli.commands.dead_letters", "list or replay entries that were set aside"),
    "redis-acl": ("oprime_cli.commands.redis_acl", "write a user of Redis for each service, with the rights it needs"),
    "completion": ("oprime_cli.commands.completion", "print the script that completes oprime in a shell"),
    "version": ("oprime_cli.commands.version", "show the versions of oprime and of what it runs on"),
}
"""Name -> module and one-line help. A module offers `add_parser(subparsers)` and `run(args) -> int`."""

HIDDEN_COMMANDS = {"supervise": "oprime_cli.commands.supervise"}
"""What other commands start; no person needs them."""

MAKE_MODELS = frozenset({"sft", "prm", "data", "eval"})
"""Commands whose own process may load a model. The others read tokenizers at most."""

INTERRUPTED = 130


def command() -> int:
    """`oprime`, as a process of its own."""
    if not MAKE_MODELS & set(sys.argv[1:2]):
        from oprime.lm.without_torch import make_no_models

        make_no_models()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 failed, 2 wrong settings or usage, 3 run ended for good, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"oprime {version('oprime')}\n")
        return 0
    parser = build_parser(words)
    arguments = parser.parse_args(words)
    module = importlib.import_module(_module_of(arguments.command))
    try:
        from oprime.runtime.secret_files import refuse_secrets_in

        refuse_secrets_in(os.environ)
        return int(module.run(arguments))
    except OprimeError as error:
        return _failed(error)
    except KeyboardInterrupt:
        sys.stderr.write("oprime: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The whole parser for the command that `words` name, and only the list of commands otherwise."""
    parser, subparsers = _program()
    named = words[0] if words else ""
    if named and not named.startswith("-") and named not in COMMANDS and named not in HIDDEN_COMMANDS:
        parser.error(f"there is no command {named!r}{did_you_mean(named, COMMANDS)}: choose one of {', '.join(COMMANDS)}")
    if named in COMMANDS or named in HIDDEN_COMMANDS:
        importlib.import_module(_module_of(named)).add_parser(subparsers)
    else:
        for name, (_, help_line) in COMMANDS.items():
            subparsers.add_parser(name, help=help_line)
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """The parser of all commands; imports the module of each."""
    parser, subparsers = _program()
    for module, _ in COMMANDS.values():
        importlib.import_module(module).add_parser(subparsers)
    return parser


def _program() -> tuple[argparse.ArgumentParser, Subparsers]:
    parser = argparse.ArgumentParser(
        prog="oprime",
        description="Train language models with PRIME: reinforcement learning with implicit process rewards.",
        epilog="example:\n  oprime train deploy/config/demo.toml\n\n`oprime COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def _module_of(command: str) -> str:
    return HIDDEN_COMMANDS.get(command) or COMMANDS[command][0]


def _failed(error: OprimeError) -> int:
    if os.environ.get("OPRIME_DEBUG") == "1":
        raise error
    sys.stderr.write(f"oprime: {error}\n")
    return exit_code(error)


if __name__ == "__main__":
    sys.exit(command())
