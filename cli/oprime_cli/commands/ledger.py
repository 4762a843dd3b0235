"""`oprime ledger RUN`: accounts for every rollout of a run, running or not."""

import argparse
import asyncio

from oprime_cli.arguments import Subparsers, add_run, command_parser
from oprime_cli.console import count, say, show


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "ledger",
        description="Account for every rollout of a run: issued = trained + baseline + filtered + dropped + dead + live, the entries say "
        "the same, every group that was issued is whole, and no payload is missing or orphaned. Exit code 1 if that is violated, or if "
        "Redis holds nothing of the run.",
        example="oprime ledger runs/demo",
    )
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from oprime_cli.running.audit import audit
    from oprime_cli.running.redis_server import reachable_redis
    from oprime_cli.running.run_folder import find_run

    folder = find_run(arguments.run)
    with reachable_redis(folder) as config:
        found = asyncio.run(audit(config))
    if found.empty:
        say(
            f"Redis holds nothing of run {config.run.name}: the run issued nothing yet, or the server was emptied; "
            f"`oprime resume {folder.path}` goes on from the newest checkpoint"
        )
        return 1
    table = Table("state", "rollouts", "recounted", title=f"ledger of {config.run.name}")
    for state in sorted({*found.counts, *found.recount}, key=lambda name: (name != "issued", name)):
        table.add_row(state, count(found.counts.get(state, 0)), count(found.recount.get(state, 0)))
    show(table)
    payloads = found.payloads
    say(f"payloads: {payloads.stored:,} stored, {len(payloads.missing):,} missing, {len(payloads.orphaned):,} orphaned")
    if found.closed:
        say("invariant OK: issued = trained + baseline + filtered + dropped + dead + live; groups are whole, payloads where they belong")
        return 0
    say("invariant VIOLATED:")
    for finding in found.findings:
        say(f"  {finding}")
    return 1
