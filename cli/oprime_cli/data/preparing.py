"""`oprime data prepare`: its stages in their order, and the task rows that come out."""

import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any

from oprime.runtime.errors import OprimeError
from oprime.tasks.actions import short_prompt
from oprime.tasks.chain import Split
from oprime.tasks.row_files import write_rows
from oprime.tasks.sources.layout import Layout
from oprime_cli.data.choices import Choices
from oprime_cli.data.comparing import Decontaminate, Duplicates
from oprime_cli.data.judging import Judge, judging
from oprime_cli.data.reading import Reading
from oprime_cli.data.record_log import unwritable
from oprime_cli.data.rules import Rules
from oprime_cli.data.settings import PrepareConfig
from oprime_cli.data.solving import Answers, Difficulty, Solve
from oprime_cli.data.stages import Item, Note, Stage, StageResult, items_in, kept_file, run_stages
from oprime_cli.data.usage import UsageNotes
from oprime_cli.lock_file import sole_holder

SPLITS: tuple[Split, ...] = ("train", "heldout")


def stages_of(config: PrepareConfig, judge: Judge, usage: UsageNotes) -> list[Stage]:
    """What is cheap comes first: a model is asked only about what is left."""
    return [
        Reading(config.sources),
        Rules(config.rules),
        Duplicates(config.duplicates),
        Decontaminate(config.decontaminate),
        Choices(config.choices, usage),
        Answers(config.answers, judge),
        Solve(config.solve, judge, usage),
        Difficulty(config.difficulty),
    ]


def sole_preparer(config: PrepareConfig) -> AbstractContextManager[None]:
    """Holds the folder of the output. Raises BusyError while another process prepares into it."""
    folder = Path(config.folder)
    return sole_holder(
        folder / "lock", busy=f"another `oprime data prepare` is writing to {folder}", remedy="wait for it, or choose another folder"
    )


async def prepare(config: PrepareConfig, note: Note, usage: UsageNotes) -> AsyncGenerator[StageResult]:
    """Run the stages. Raises OprimeError; what is finished stands."""
    async with (
        judging(config.verifier) as judge,
        aclosing(run_stages(stages_of(config, judge, usage), _stage_folder(config), note)) as results,
    ):
        async for result in results:
            yield result


def _stage_folder(config: PrepareConfig) -> Path:
    return Path(config.folder) / "stages"


def write(config: PrepareConfig) -> dict[Path, int]:
    """Task rows of what the last stage kept: how many each file has. Raises OprimeError where nothing is left."""
    section, kept = config.rows, kept_file(_stage_folder(config), Difficulty.name)
    places = sorted(_place(item.question.text) for item in items_in(kept))
    if len(places) <= section.heldout:
        raise OprimeError(
            f"{len(places)} questions are left, and rows.heldout = {section.heldout} of them would be held out: {kept.parent} says why "
            "each was dropped (*.dropped.jsonl); take more sources, or looser settings"
        )
    first_of_train = places[section.heldout]
    layout = Layout(
        system=short_prompt() if section.system == "actions" else "", math_suffix=section.math_suffix, code_suffix=section.code_suffix
    )
    written: dict[Path, int] = {}
    for split in SPLITS:
        path = Path(config.folder) / f"{split}.jsonl"
        if split == "heldout" and not section.heldout:
            path.unlink(missing_ok=True)
            continue
        try:
            written[path] = write_rows(path, _rows(items_in(kept), layout, split, first_of_train), "jsonl")
        except OSError as error:
            raise unwritable(path, error) from error
    return written


def _rows(items: Iterator[Item], layout: Layout, split: Split, first_of_train: bytes) -> Iterator[dict[str, Any]]:
    index = 0
    for item in items:
        if (_place(item.question.text) < first_of_train) != (split == "heldout"):
            continue
        extra = {} if item.pass_rate is None else {"pass_rate": item.pass_rate}
        yield layout.row(item.question, index, split, **extra)
        index += 1


def _place(text: str) -> bytes:
    """Those with the first places are held out: chosen by chance, and mostly the same ones when other questions come or go."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
