"""What a run reads from elsewhere: its tasks, and a Redis that is not its own. Each check returns its problems."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from oprime.runtime.errors import OprimeError, SettingsError
from oprime.runtime.queue_url import queue_url_problem, without_password
from oprime_cli.planning.model_files import locate
from oprime_cli.run_config import RunConfig
from oprime_cli.running.redis_server import open_queue
from oprime_cli.running.run_folder import EMBEDDED
from oprime_verifier.config import VerifierSection

if TYPE_CHECKING:
    from oprime.tasks.rows import Render

FIRST_ROWS = 100


def prompt_renderer(config: RunConfig) -> "Render":
    """How the policy's tokenizer and chat template write a prompt. Raises OprimeError when they are not there."""
    from oprime.lm.tokenizers import load_tokenizer, render_prompt, require_chat_template

    tokenizer = load_tokenizer(locate(config.model.path), trust_remote_code=config.model.trust_remote_code)
    require_chat_template(tokenizer)
    return partial(render_prompt, tokenizer)


def tasks_problems(config: RunConfig, *, has_model: bool) -> list[str]:
    """Task files that are missing, or whose first rows cannot be used; with a sound model, prompts go through its chat template."""
    if config.tasks.source != "rows":
        return []
    try:
        render = prompt_renderer(config) if has_model else None
    except OprimeError as error:
        return [f"model.path = {config.model.path}: {error}"]
    sources = {"tasks.train": config.tasks.train, "tasks.heldout": config.tasks.heldout}
    return [problem for setting, location in sources.items() if location for problem in _file_problems(config, setting, location, render)]


def benchmark_problems(config: RunConfig) -> list[str]:
    """Benchmarks of run.evaluate_on that do not exist, or whose files are missing or have rows that cannot be used."""
    from oprime.evaluation.of_run import benchmarks_of_run

    try:
        benchmarks_of_run(config.run, config.sampling)
    except OprimeError as error:
        return [str(error)]
    return []


def require_verifiers(section: VerifierSection, named: Mapping[str, int], split: str) -> None:
    """Raises SettingsError for names that tasks give and nobody offers; `named` counts the tasks of each."""
    offered = section.names
    unknown = {name: count for name, count in named.items() if name not in offered}
    if unknown:
        listed = ", ".join(f"{count} x {name!r}" for name, count in unknown.items())
        raise SettingsError(
            f"tasks.{split} names verifiers that nobody offers ({listed}): there are {', '.join(offered)}; "
            "correct the rows, or add the verifier under [verifier.plugins]"
        )


def _file_problems(config: RunConfig, setting: str, location: str, render: "Render | None") -> list[str]:
    from oprime.tasks.formats.registry import open_tasks
    from oprime.tasks.rows import BadRowError, read_task

    problems: list[str] = []
    usable = 0
    named: Counter[str] = Counter()
    try:
        reader, rows = open_tasks(location, setting, config.tasks.reader)
        for row in islice(rows, FIRST_ROWS):
            try:
                named[read_task(row, reader, render).verifier] += 1
                usable += 1
            except BadRowError as error:
                problems.append(f"{setting}: {error}")
        require_verifiers(config.verifier, named, setting.removeprefix("tasks."))
    except OprimeError as error:
        return [str(error)]
    if not usable:
        return [*problems[:3], f"{setting} = {location} has no usable row among its first {FIRST_ROWS}: see `oprime tasks`"]
    return [] if config.tasks.skip_bad_rows else problems[:3]


def queue_problems(config: RunConfig, *, new_run: bool) -> list[str]:
    """A Redis that does not answer, or that already holds a run of this name."""
    if config.queue.url == EMBEDDED or queue_url_problem(config.queue.url):
        # An address that is none is a contradiction of the settings, which says so.
        return []
    try:
        issued = asyncio.run(_issued(config))
    except OprimeError as error:
        return [f"queue.url = {without_password(config.queue.url)}: {error}"]
    if new_run and issued:
        return [
            f"queue.url = {without_password(config.queue.url)} already holds {issued} rollouts of a run named {config.run.name}: choose "
            "another run.name, or go on with that run (oprime resume)"
        ]
    return []


async def _issued(config: RunConfig) -> int:
    async with open_queue(config) as queue:
        await queue.check_server()
        return (await queue.ledger_counts()).get("issued", 0)
