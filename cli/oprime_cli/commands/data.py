"""`oprime data`: make training data: tasks for RL out of published data sets, and demonstrations of the seven actions."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, command_parser

if TYPE_CHECKING:
    from oprime_cli.data.settings import ActionsConfig, PrepareConfig
    from oprime_cli.data.stages import StageResult
    from oprime_cli.data.usage import UsageNotes


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "data",
        description="Make training data: tasks for RL out of published data sets, or demonstrations of the seven actions (docs/data.md).",
        example="oprime data prepare deploy/config/data/gsm8k.toml",
    )
    actions = parser.add_subparsers(dest="action", metavar="{prepare,actions}", required=True)
    prepare = command_parser(
        actions,
        "prepare",
        description="Make task rows of questions, in stages that count what they drop and why: read, rules, duplicates, decontaminate, "
        "choices, answers, solve, difficulty. An interrupted run goes on where it was, and a stage whose settings and input are the same "
        "is passed over.",
        example="oprime data prepare deploy/config/data/gsm8k.toml --set folder=data/gsm8k --set rows.heldout=256",
    )
    demonstrate = command_parser(
        actions,
        "actions",
        description="Have a model write responses in the form of the seven actions, for `oprime sft`. Keeps those that have the form and, "
        "where the question has an answer, are found right by the verifier. An interrupted run goes on where it was.",
        example="oprime data actions deploy/config/data/actions.toml --set model.url=http://127.0.0.1:8000/v1",
    )
    for one in (prepare, demonstrate):
        one.add_argument("config", metavar="CONFIG", help="TOML file with the settings (docs/data.md)")
        one.add_argument(
            "--set",
            dest="overrides",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="change one setting; may be given several times",
        )


def run(args: argparse.Namespace) -> int:
    from oprime.runtime.logs import configure_logs
    from oprime_cli.data.settings import ActionsConfig, PrepareConfig, read_settings

    configure_logs("data", level="error")
    path = Path(args.config)
    if args.action == "prepare":
        return _prepare(read_settings(PrepareConfig, path, args.overrides))
    return _demonstrate(read_settings(ActionsConfig, path, args.overrides))


def _prepare(config: "PrepareConfig") -> int:
    from oprime_cli.data.preparing import sole_preparer
    from oprime_cli.data.usage import UsageNotes

    usage = UsageNotes()
    try:
        with sole_preparer(config), _progress() as note:
            asyncio.run(_stages(config, note, usage))
    finally:
        _say_usage(usage)
    return 0


async def _stages(config: "PrepareConfig", note: Callable[[str, int], None], usage: "UsageNotes") -> None:
    from oprime_cli.data.preparing import prepare, write

    # A reader of the output that goes away ends the stages here, and not when nobody waits for their processes any more.
    async with aclosing(prepare(config, note, usage)) as results:
        async for result in results:
            for line in _said(result):
                print(line)  # noqa: T201  (the command's answer)
    for path, rows in write(config).items():
        print(f"{rows} rows in {path}")  # noqa: T201


def _said(result: "StageResult") -> Iterator[str]:
    how = "done earlier" if result.reused else f"{result.seconds:.1f} s"
    yield f"{result.stage}: {result.came} came, {result.kept} kept ({how})"
    for reason, number in result.dropped.items():
        yield f"  {number} x {reason}"


def _demonstrate(config: "ActionsConfig") -> int:
    from oprime_cli.data.demonstrating import demonstrate
    from oprime_cli.data.usage import UsageNotes

    usage = UsageNotes()
    try:
        with _progress() as note:
            made = asyncio.run(demonstrate(config, lambda number: note("actions", number), usage))
    finally:
        _say_usage(usage)
    print(f"{made.kept} demonstrations of {made.questions} questions in {config.output}")  # noqa: T201  (the command's answer)
    for reason, number in [*made.unread.most_common(), *made.dropped.most_common()]:
        print(f"  {number} x {reason}")  # noqa: T201
    return 0


def _say_usage(usage: "UsageNotes") -> None:
    for line in usage.lines():
        sys.stderr.write(f"{line}\n")


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A line that counts on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda stage, number: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage, number: status.update(f"{stage}: {number}")
