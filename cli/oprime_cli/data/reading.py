"""The first stage: questions of files, whatever the form of their rows."""

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from oprime.runtime.errors import SettingsError
from oprime.tasks.formats.question_answer import RowFields
from oprime.tasks.row_files import local_file, read_rows
from oprime.tasks.rows import BadRowError, RawRow
from oprime.tasks.sources.question import Question
from oprime.tasks.sources.registry import source_named, source_of
from oprime_cli.data.settings import SourceSection
from oprime_cli.data.stages import Dropped, Item


def questions_of(section: SourceSection, setting: str) -> "Iterator[Item | Dropped]":
    """Every row of a file, as a question or with what is wrong with it. Raises SettingsError where none is a question."""
    read = _reader(section, setting)
    found, first_problem = 0, ""
    for row in read_rows(section.file, setting):
        try:
            question = read(row)
        except BadRowError as error:
            first_problem = first_problem or str(error)
            yield Dropped(reason=f"bad row: {error.reason}", detail=str(error))
            continue
        found += 1
        source = section.data_source or question.data_source or Path(section.file).name.partition(".")[0]
        yield Item(origin=row.origin, question=replace(question, data_source=source))
    if not found:
        raise SettingsError(f"{setting} = {section.file} has no row that can be read; the first: {first_problem or 'there is none'}")


def _reader(section: SourceSection, setting: str) -> Callable[[RawRow], Question]:
    if section.question:
        return RowFields(question=section.question, answer=section.answer, ability=section.ability, answer_after=section.answer_after).read
    if section.form:
        return source_named(section.form, f"{setting}, form").read
    return source_of(next(read_rows(section.file, setting), None), f"{setting} = {section.file}").read


def file_state(location: str, setting: str) -> list[Any]:
    """What tells whether a file is still the same."""
    stat = local_file(location, setting).stat()
    return [location, stat.st_size, stat.st_mtime_ns]


class Reading:
    name = "read"

    def __init__(self, sections: tuple[SourceSection, ...]) -> None:
        """Raises SettingsError for a file that is not there."""
        self._sections = sections
        self.settings = [[section.model_dump(), file_state(section.file, "sources.file")] for section in sections]

    async def run(self, items: Iterator[Item], folder: Path) -> AsyncGenerator[Item | Dropped]:
        for section in self._sections:
            for outcome in questions_of(section, "sources.file"):
                yield outcome
