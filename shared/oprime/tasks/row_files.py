"""Rows in files: JSONL, JSON and parquet, here or on the Hugging Face hub. Reads one piece at a time, writes all or nothing."""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from oprime.runtime.errors import SettingsError
from oprime.runtime.whole_files import whole_file
from oprime.tasks.rows import RawRow

Format = Literal["jsonl", "parquet"]
GZIPPED = ".gz"
HUB_PREFIX = "hf://datasets/"
_HUB_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
_PATTERN = re.compile(r"[*?]")
_ROWS_AT_ONCE = 256


def read_rows(location: str, setting: str, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """Rows of a JSON or parquet file, one after another; of several files in the order of their names.

    `location` is a path or `hf://datasets/OWNER/NAME[@REVISION]/FILE`, of which the file may be a pattern with * and ?; `setting` names it
    in errors. `columns` are those to read of a parquet file, of those that it has. A line that is no JSON becomes a RawRow with a problem;
    raises SettingsError when a file itself cannot be read.
    """
    form = file_format(location, setting)
    for one in files_of(location, setting):
        path = local_file(one, setting)
        try:
            yield from _parquet_rows(path, one, columns) if form == "parquet" else _json_rows(path, one)
        except (OSError, EOFError, ValueError) as error:
            raise SettingsError(f"{setting} = {one} cannot be read: {error}. Give a whole JSONL or parquet file") from error


def files_of(location: str, setting: str) -> list[str]:
    """The files that a location names: itself, or those that fit its pattern. Raises SettingsError where none does."""
    if not _PATTERN.search(location.removeprefix(HUB_PREFIX)) or Path(location).is_file():
        return [location]
    found = _on_hub(location, setting) if location.startswith(HUB_PREFIX) else _here(Path(location))
    if not found:
        raise SettingsError(f"{setting} = {location}: no file has a name that fits; correct the pattern, or name one file")
    return found


def _here(pattern: Path) -> list[str]:
    first = next(place for place, part in enumerate(pattern.parts) if _PATTERN.search(part))
    return sorted(str(path) for path in Path(*pattern.parts[:first]).glob("/".join(pattern.parts[first:])) if path.is_file())


def _on_hub(location: str, setting: str) -> list[str]:
    address = _hub_address(location, setting)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        names = HfApi().list_repo_files(address["repo"], repo_type="dataset", revision=address["revision"])
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _not_fetched(location, setting, error) from error
    place = location.removesuffix(address["file"])
    return [f"{place}{name}" for name in sorted(names) if fnmatchcase(name, address["file"])]


def file_format(location: str, setting: str) -> Format:
    """By the name's ending. Raises SettingsError for others than .jsonl, .json, both perhaps with .gz, and .parquet."""
    ending = Path(location.lower().removesuffix(GZIPPED)).suffix
    if ending == ".parquet":
        return "parquet"
    if ending in (".jsonl", ".json"):
        return "jsonl"
    raise SettingsError(
        f"{setting} = {location}: the name must end with .jsonl or .parquet, so that its format is known; rename or convert the file"
    )


def local_file(location: str, setting: str) -> Path:
    """The file's path, fetched from the hub if need be. Raises SettingsError when there is no such file."""
    if location.startswith(HUB_PREFIX):
        return _from_hub(location, setting)
    path = Path(location)
    if not path.is_file():
        raise SettingsError(f"{setting} = {location}: no such file; give a JSONL or parquet file, or {HUB_PREFIX}OWNER/NAME/FILE")
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]], form: Format) -> int:
    """Write rows to a file that appears whole or not at all; returns their number."""
    with whole_file(path) as stream:
        return _write_parquet(stream, rows) if form == "parquet" else _write_json(stream, rows)


def _from_hub(location: str, setting: str) -> Path:
    address = _hub_address(location, setting)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            hf_hub_download(
                address["repo"],
                address["file"],
                repo_type="dataset",
                revision=address["revision"],
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _not_fetched(location, setting, error) from error


def _hub_address(location: str, setting: str) -> re.Match[str]:
    address = _HUB_ADDRESS.fullmatch(location)
    if address is None:
        raise SettingsError(f"{setting} = {location}: write {HUB_PREFIX}OWNER/NAME/FILE, or {HUB_PREFIX}OWNER/NAME@REVISION/FILE")
    return address


def _not_fetched(location: str, setting: str, error: Exception) -> SettingsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SettingsError(
        f"{setting} = {location} cannot be fetched: {reason}. Check the name, the network and your access to the data set, "
        "or download the file elsewhere and give its path"
    )


def _json_rows(path: Path, location: str) -> Iterator[RawRow]:
    """One row per line, or the rows of the one value that the file is."""
    with _opened(path) as stream:
        start = stream.read(1)
        stream.seek(0)
        whole = start == b"[" or (start == b"{" and location.lower().removesuffix(GZIPPED).endswith(".json"))
        if whole and (values := _rows_of_one_value(stream)) is not None:
            yield from (RawRow(origin=f"{location}, row {number}", value=value) for number, value in enumerate(values, start=1))
            return
        stream.seek(0)
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _json_row(line, f"{location}, row {number}")


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(GZIPPED) else path.open("rb")


def _rows_of_one_value(stream: BinaryIO) -> list[Any] | None:
    """Of a file that is an array of rows, or an object of columns as pandas writes it; None where its lines are rows."""
    try:
        value = json.load(stream)
    except ValueError:
        return None
    if isinstance(value, list):
        return value
    columns = [list(column) if isinstance(column, dict) else None for column in value.values()]
    if not columns or columns[0] is None or any(column != columns[0] for column in columns):
        return [value]
    return [{name: value[name][key] for name in value} for key in columns[0]]


def _json_row(line: bytes, origin: str) -> RawRow:
    try:
        return RawRow(origin=origin, value=json.loads(line))
    except ValueError as error:
        return RawRow(origin=origin, value=None, problem=str(error))


def _parquet_rows(path: Path, location: str, columns: Sequence[str] | None) -> Iterator[RawRow]:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(path) as file:
        known = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in known]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(origin=f"{location}, row {number}", value=value)


def _write_json(stream: BinaryIO, rows: Iterable[dict[str, Any]]) -> int:
    number = 0
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        number += 1
    return number


def _write_parquet(stream: BinaryIO, rows: Iterable[dict[str, Any]]) -> int:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    left, number = iter(rows), 0
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64()), ("split", pa.string())])),
        ]
    )
    with ParquetWriter(stream, schema) as writer:
        while piece := list(islice(left, 4096)):
            writer.write_table(pa.Table.from_pylist(piece, schema=schema))
            number += len(piece)
    return number
