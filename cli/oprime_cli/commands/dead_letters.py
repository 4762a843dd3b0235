"""`oprime dead-letters RUN`: entries that were set aside, and their way back."""

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.console import say, show

if TYPE_CHECKING:
    from oprime.ports import DeadLetter
    from oprime_cli.run_config import RunConfig

REASON_CHARACTERS = 200


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "dead-letters",
        description="List the entries that no worker could handle, with the reason, or put them back on their queues.",
        example="oprime dead-letters runs/demo --replay",
    )
    add_run(parser)
    parser.add_argument("--replay", action="store_true", help="put all of them back and count their rollouts as live again")


def run(arguments: argparse.Namespace) -> int:
    from oprime_cli.running.redis_server import reachable_redis
    from oprime_cli.running.run_folder import find_run

    folder = find_run(arguments.run)
    with reachable_redis(folder) as config:
        letters, replayed = asyncio.run(_handle(config, replay=arguments.replay))
    _show(letters)
    if arguments.replay and letters:
        say(f"{replayed} of {len(letters)} put back on their queues")
        if folder.supervisor_pid() is None:
            say(f"the run is not running: `oprime resume {folder.path}` handles them")
    return 0


async def _handle(config: "RunConfig", *, replay: bool) -> tuple[list["DeadLetter"], int]:
    from oprime_cli.running.redis_server import open_queue

    async with open_queue(config) as queue:
        letters = await queue.dead_letters()
        replayed = 0
        for letter in letters if replay else ():
            replayed += await queue.replay(letter)
        return letters, replayed


def _show(letters: Sequence["DeadLetter"]) -> None:
    from rich.table import Table

    if not letters:
        say("no dead letters")
        return
    table = Table("entry", "queue", "key", "rollouts", "bytes", "reason", title="dead letters")
    for letter in letters:
        reason = letter.reason[:REASON_CHARACTERS]
        table.add_row(letter.entry, letter.stream, letter.key, str(len(letter.rollout_ids)), str(letter.payload_bytes), reason)
    show(table)
