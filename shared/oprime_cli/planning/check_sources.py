"""What a run reads from elsewhere: its tasks, and a Redis that is not its own. Each check returns its problems."""

import asyncio
from itertools import islice

from oprime.runtime.errors import OprimeError
from oprime_cli.run_config import RunConfig
from oprime_cli.running.redis_server import EMBEDDED, open_queue

FIRST_ROWS = 100


def tasks_problems(config: RunConfig) -> list[str]:
    """Task files that are missing, or whose first rows cannot be used."""
    if config.tasks.source == "chain":
        return []
    sources = {"tasks.train": config.tasks.train, "tasks.heldout": config.tasks.heldout}
    return [problem for setting, location in sources.items() if location for problem in _file_problems(config, setting, location)]


def _file_problems(config: RunConfig, setting: str, location: str) -> list[str]:
    from oprime.tasks.row_files import read_rows
    from oprime.tasks.rows import ROW_FIELDS, BadRowError, task_of_row

    problems: list[str] = []
    usable = 0
    try:
        for row in islice(read_rows(location, setting, ROW_FIELDS), FIRST_ROWS):
            try:
                task_of_row(row)
                usable += 1
            except BadRowError as error:
                problems.append(f"{setting}: {error}")
    except OprimeError as error:
        return [str(error)]
    if not usable:
        return [*problems[:3], f"{setting} = {location} has no usable row among its first {FIRST_ROWS}: see `oprime tasks`"]
    return [] if config.tasks.skip_bad_rows else problems[:3]


def queue_problems(config: RunConfig, *, new_run: bool) -> list[str]:
    """A Redis that does not answer, or that already holds a run of this name."""
    if config.queue.url == EMBEDDED:
        return []
    try:
        issued = asyncio.run(_issued(config))
    except OprimeError as error:
        return [f"queue.url = {config.queue.url}: {error}"]
    if new_run and issued:
        return [
            f"queue.url = {config.queue.url} already holds {issued} rollouts of a run named {config.run.name}: choose another run.name, "
            "or go on with that run (oprime resume)"
        ]
    return []


async def _issued(config: RunConfig) -> int:
    async with open_queue(config) as queue:
        return (await queue.ledger_counts()).get("issued", 0)
