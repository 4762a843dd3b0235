"""Checkpoints that are there completely or not at all, whatever is killed and whenever the disk fills up.

RUN/checkpoints/step-000010/{policy,critic,prm,coordinator}/ (critic: PPO only; prm: not where the run
has none): each part is written by its service into
`.NAME.partial`, gets a marker `checkpoint.json` that lists its files, and takes its name by a rename. A part without a marker
does not exist.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import xxhash

from oprime.runtime.errors import CheckpointError
from oprime.runtime.settings import AlgorithmSection

log = structlog.get_logger()

CRITIC = "critic"
MARKER = "checkpoint.json"
FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    bytes: int
    xxh3: str
    """64-bit XXH3 of the file, in hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What a complete part says about itself."""

    step: int
    files: Mapping[str, StoredFile]
    """By path relative to the part."""


def parts_of(algorithm: AlgorithmSection) -> tuple[str, ...]:
    """What the checkpoints of a run hold."""
    prm = ("prm",) if algorithm.needs_prm else ()
    critic = (CRITIC,) if algorithm.needs_critic else ()
    return ("policy", *prm, "coordinator", *critic)


def checkpoint_root(run_folder: Path) -> Path:
    return run_folder / "checkpoints"


def step_directory(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def begin_part(root: Path, step: int, part: str) -> Path:
    """An empty directory to write a part into. What an earlier, unfinished try left there is gone."""
    directory = step_directory(root, step) / f".{part}.partial"
    with _writing(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    return directory


def complete_part(directory: Path, step: int) -> Path:
    """Make the part that was written into `directory` (from `begin_part`) exist; returns its final directory.

    Flushes every file, writes the marker last and renames. Raises CheckpointError with path and free space if the disk
    refuses.
    """
    final = directory.with_name(directory.name.removeprefix(".").removesuffix(".partial"))
    if final == directory:
        raise ValueError(f"{directory} does not come from begin_part: its name must be .NAME.partial")
    with _writing(directory):
        files = {str(file.relative_to(directory)): _flushed(file) for file in _files(directory)}
        _write_marker(directory, Marker(step=step, files=files))
        replaced = directory.with_name(f".{final.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            final.rename(replaced)
        directory.rename(final)
        _flush_directory(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    log.info("checkpoint_part_complete", step=step, part=final.name, bytes=sum(file.bytes for file in files.values()))
    return final


def read_marker(directory: Path) -> Marker | None:
    """The marker of a part; None if it has none or one that cannot be read."""
    try:
        document = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            return None
        files = {str(name): StoredFile(bytes=int(entry["bytes"]), xxh3=str(entry["xxh3"])) for name, entry in document["files"].items()}
        return Marker(step=int(document["step"]), files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_complete(directory: Path) -> bool:
    """Whether a part has its marker and every file of it has its size. Reads no file: see `verify_part`."""
    marker = read_marker(directory)
    return marker is not None and all(_size(directory / name) == entry.bytes for name, entry in marker.files.items())


def verify_part(directory: Path) -> Marker:
    """Read every file of a part before it is loaded. Raises CheckpointError naming the first that is missing or damaged."""
    marker = read_marker(directory)
    if marker is None:
        raise CheckpointError(f"{directory} is not a complete checkpoint: it has no readable {MARKER}; resume from an older one")
    for name, entry in marker.files.items():
        size = _size(directory / name)
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
            raise CheckpointError(f"{directory / name} {found}: the checkpoint is damaged; remove {directory.parent} to use an older one")
        if _xxh3(directory / name) != entry.xxh3:
            raise CheckpointError(
                f"{directory / name} does not have its checksum {entry.xxh3}: the checkpoint is damaged; "
                f"remove {directory.parent} to use an older one"
            )
    return marker


def newest_complete(root: Path, parts: Sequence[str]) -> tuple[int, Path] | None:
    """Step and directory of the newest checkpoint of which all `parts` are complete."""
    return next(reversed(_complete(root, parts)), None)


def newest_for_run(root: Path, parts: Sequence[str]) -> tuple[int, Path] | None:
    """`newest_complete` for a run that goes on from it; None if there are no checkpoints.

    Raises CheckpointError if there are some, but none with a critic that `parts` asks for: the run had another estimator.
    """
    newest = newest_complete(root, parts)
    if newest is None and CRITIC in parts:
        without = newest_complete(root, [part for part in parts if part != CRITIC])
        if without is not None:
            raise CheckpointError(
                f"{without[1]} holds no critic, which algorithm.estimator needs: go on with the estimator that the run began with, "
                "or start a new run (run.name) whose model.path is the policy of this one"
            )
    return newest


def prune_checkpoints(root: Path, parts: Sequence[str], keep: int = 2) -> list[int]:
    """Remove all but the `keep` newest complete checkpoints, and what is incomplete and older than the newest complete one.

    Incomplete checkpoints that are newer stay: services may be writing them. Returns the steps that were removed.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least one checkpoint must stay")
    complete = [step for step, _ in _complete(root, parts)]
    if not complete:
        return []
    kept = set(complete[-keep:])
    return _remove(root, [step for step, _ in _steps(root) if step < complete[-1] and step not in kept])


def remove_newer(root: Path, step: int) -> list[int]:
    """Remove every checkpoint, complete or not, after `step`: a run that goes back to `step` writes them anew."""
    return _remove(root, [other for other, _ in _steps(root) if other > step])


def _complete(root: Path, parts: Sequence[str]) -> list[tuple[int, Path]]:
    return [(step, directory) for step, directory in _steps(root) if all(is_complete(directory / part) for part in parts)]


def _steps(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    named = ((_STEP.fullmatch(directory.name), directory) for directory in root.iterdir())
    return sorted((int(match[1]), directory) for match, directory in named if match)


def _remove(root: Path, steps: Sequence[int]) -> list[int]:
    for step in steps:
        directory = step_directory(root, step)
        # Markers go first: a removal that is cut short leaves nothing that looks complete.
        for marker in directory.glob(f"*/{MARKER}"):
            marker.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
        log.info("checkpoint_removed", step=step)
    return list(steps)


def _write_marker(directory: Path, marker: Marker) -> None:
    document = {
        "format": FORMAT,
        "step": marker.step,
        "files": {name: {"bytes": entry.bytes, "xxh3": entry.xxh3} for name, entry in sorted(marker.files.items())},
    }
    temporary = directory / f".{MARKER}"
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    _flush(temporary)
    temporary.rename(directory / MARKER)
    _flush_directory(directory)


def _files(directory: Path) -> Iterator[Path]:
    return (file for file in sorted(directory.rglob("*")) if file.is_file() and file.name != MARKER)


def _flushed(file: Path) -> StoredFile:
    _flush(file)
    return StoredFile(bytes=file.stat().st_size, xxh3=_xxh3(file))


def _flush(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _xxh3(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError.unwritable(path, error) from error
