"""The published forms of rows that oprime reads. A new one is a `Source` in one of the modules here."""

from oprime.runtime.errors import SettingsError, did_you_mean
from oprime.tasks.rows import RawRow
from oprime.tasks.sources import code_sources, eurus_sources, math_sources
from oprime.tasks.sources.question import Source

SOURCES: tuple[Source, ...] = (math_sources.DAPO, *eurus_sources.SOURCES, *code_sources.SOURCES, *math_sources.SOURCES)
"""The first that recognises a file's first row reads it."""


def source_named(name: str, setting: str) -> Source:
    """Raises SettingsError for a name that no source has; `setting` stands in it."""
    known = {source.name: source for source in SOURCES}
    if name not in known:
        raise SettingsError(f"{setting} = {name}: there is no such format{did_you_mean(name, known)}; formats are {', '.join(known)}")
    return known[name]


def source_of(first: RawRow | None, location: str) -> Source:
    """The source that recognises a file's first row. Raises SettingsError where none does."""
    value = first.value if first is not None and isinstance(first.value, dict) else {}
    found = next((source for source in SOURCES if source.recognises(value)), None)
    if found is None:
        has = ", ".join(map(str, value)) or (first.problem if first is not None else "") or "nothing"
        raise SettingsError(
            f"{location}: its first row is of no form that is known; it has {has}. Forms are "
            f"{', '.join(source.name for source in SOURCES)} (docs/tasks.md); of another, name the fields with `oprime tasks convert "
            "--question FIELD --answer FIELD`"
        )
    return found
