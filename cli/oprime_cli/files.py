"""Files that never look whole while they are half written."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from oprime.runtime.errors import OprimeError


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write, flush to disk, then rename: a reader sees the old file or the new one. Raises OprimeError if the disk refuses."""
    try:
        _write_and_rename(path, text, mode)
    except OSError as error:
        raise OprimeError(f"{path} cannot be written: {error.strerror} ({_free(path)}): make room, then go on") from error


def _free(path: Path) -> str:
    """Free space beside `path`, in words."""
    with contextlib.suppress(OSError):
        return f"{shutil.disk_usage(path.parent).free / 2**20:.0f} MiB of disk space are free"
    return "its folder cannot be read"


def _write_and_rename(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(handle, mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode=mode)


def write_toml(path: Path, document: dict[str, Any], *, head: str = "", mode: int = 0o644) -> None:
    write_atomically(path, head + tomli_w.dumps(document), mode=mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file or it holds something else."""
    with contextlib.suppress(OSError, UnicodeDecodeError, json.JSONDecodeError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None
