"""Finds the reader of a file's rows: one of oprime's own, by name or by the file's first row, or a plug-in."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from oprime.runtime.errors import SettingsError
from oprime.runtime.plugins import load_attribute
from oprime.tasks.rows import RawRow


class KnownFormat(Protocol):
    """A reader that knows the rows of its format."""

    @property
    def name(self) -> str: ...

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a file whose first row this is has rows of this format, by the names of the fields."""
        ...


FormatT = TypeVar("FormatT", bound=KnownFormat)


def recognised(first: RawRow | None, formats: Sequence[FormatT]) -> FormatT:
    """The first format that recognises a file's first row; the first of all for a file that none recognises."""
    value = first.value if first is not None and isinstance(first.value, dict) else {}
    return next((known for known in formats if known.recognises(value)), formats[0])


def reader_named(name: str, formats: Sequence[KnownFormat], setting: str) -> Any:
    """The format of that name, or what "module:NAME" names; `setting` stands in errors. Raises SettingsError."""
    known = {reader.name: reader for reader in formats}
    if name in known:
        return known[name]
    if ":" not in name:
        raise SettingsError(
            f"{setting} = {name}: no such reader; oprime has {', '.join(known)}, and one of your own is "
            '"module:NAME" or "path/to/file.py:NAME" (docs/extending.md)'
        )
    try:
        found, _ = load_attribute(name)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        raise SettingsError(f"{setting} = {name} cannot be imported ({problem}): install it, or correct the name") from error
    if isinstance(found, type) or not _is_reader(found):
        raise SettingsError(
            f"{setting} = {name} is no reader: name an object with a name, a tuple of fields and read(row) (docs/extending.md)"
        )
    return found


def _is_reader(found: Any) -> bool:
    fields = getattr(found, "fields", None)
    return isinstance(getattr(found, "name", None), str) and isinstance(fields, tuple | list) and callable(getattr(found, "read", None))
