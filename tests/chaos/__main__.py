"""python -m chaos: proof with real processes that nothing is lost, counted twice or stuck.

Trains the demo's task again and again while processes are killed and their ways to Redis break. Exit code 1 on any violation.
"""

import argparse
import asyncio
import logging
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import structlog

from chaos.faults import draw
from chaos.run import Outcome, run_under, settings, steps_for
from e2e.command_line import DEMO, oprime, sets
from oprime_cli.console import duration, say

BOUNDS = (0, 2)
"""Staleness bounds S of the runs with even and with odd seeds."""
FOLDER = Path("runs/chaos")


def main() -> int:
    arguments = parse_arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    shutil.rmtree(arguments.directory, ignore_errors=True)
    arguments.directory.mkdir(parents=True)
    model = starting_model(arguments.directory.absolute())
    outcomes = asyncio.run(all_runs(model, arguments))
    say(table(outcomes))
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="faults over all runs (default: 100)")
    parser.add_argument("--faults-per-run", type=int, default=15, help="faults of one run; its steps follow from them (default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run; even seeds train at S = 0, odd ones at S = 2")
    parser.add_argument("--directory", type=Path, default=FOLDER, help=f"where runs are put; emptied first (default: {FOLDER})")
    return parser.parse_args()


def starting_model(directory: Path) -> Path:
    """A model of the chain task that is right now and then (about one time in ten), so that groups pass the filter."""
    output = directory / "model"
    values = {"model.path": str(output), "tasks.chain.operations": 2, "sft.steps": 120, "sft.batch_rows": 64, "sft.output": str(output)}
    made = oprime("sft", str(DEMO), *sets(values))
    if made.returncode != 0:
        sys.exit(f"the starting model could not be made: {made.stderr}")
    return output


async def all_runs(model: Path, arguments: argparse.Namespace) -> list[Outcome]:
    """The undisturbed run, then runs with faults until there were enough of them."""
    directory, steps = arguments.directory, {bound: steps_for(arguments.faults_per_run, bound) for bound in BOUNDS}
    undisturbed = await run_under(settings(model, directory, "undisturbed", max_staleness=0, steps=steps[0]), [], seed=0)
    report(undisturbed)
    outcomes = [undisturbed]
    left = arguments.faults
    # More runs than it takes: a run may end before its last fault.
    for seed in range(arguments.seed, arguments.seed + 3 * math.ceil(arguments.faults / arguments.faults_per_run)):
        if left <= 0 or undisturbed.violations:
            break
        bound = BOUNDS[seed % len(BOUNDS)]
        config = settings(model, directory, f"seed-{seed}", max_staleness=bound, steps=steps[bound])
        faults = draw(seed, min(left, arguments.faults_per_run))
        outcome = await run_under(config, faults, seed=seed, twin=undisturbed if bound == 0 else None)
        report(outcome)
        outcomes.append(outcome)
        left -= len(outcome.struck)
    return outcomes


def report(outcome: Outcome) -> None:
    """One line for a good run; all that is known of a bad one."""
    verdict = "as it must be" if not outcome.violations else f"{len(outcome.violations)} violations"
    say(
        f"{outcome.folder.name}: S = {outcome.max_staleness}, {outcome.steps} steps, {len(outcome.struck)} faults, "
        f"{duration(outcome.seconds)}: {verdict}"
    )
    if outcome.violations:
        for line in [*outcome.violations, "what was done to it:", *outcome.struck]:
            say(f"  {line}")
        say(f"  its files: {outcome.folder}; once more: make chaos SEED={outcome.seed} FAULTS={len(outcome.struck)}")


def table(outcomes: Iterable[Outcome]) -> str:
    """As docs/operations.md shows it."""
    lines = ["| S | seed | steps | faults | by kind | by victim | seconds | result |", "|---|---|---|---|---|---|---|---|"]
    for one in outcomes:
        kinds, victims = (Counter(getattr(struck.fault, name) for struck in one.struck) for name in ("kind", "victim"))
        result = "as it must be" if not one.violations else f"{len(one.violations)} violations"
        seed = one.seed if one.struck else "-"
        lines.append(
            f"| {one.max_staleness} | {seed} | {one.steps} | {len(one.struck)} | {listed(kinds)} | {listed(victims)} "
            f"| {one.seconds:.0f} | {result} |"
        )
    return "\n".join(lines)


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common()) or "none"


if __name__ == "__main__":
    sys.exit(main())
