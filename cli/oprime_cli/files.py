"""Files that never look whole while they are half written."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from oprime.runtime.errors import OprimeError
from oprime.runtime.whole_files import whole_file


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """As `whole_file`. Raises OprimeError if the disk refuses."""
    try:
        with whole_file(path, mode=mode) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise OprimeError(f"{path} cannot be written: {error.strerror} ({_free(path)}): make room, then go on") from error


def _free(path: Path) -> str:
    """Free space beside `path`, in words."""
    with contextlib.suppress(OSError):
        return f"{shutil.disk_usage(path.parent).free / 2**20:.0f} MiB of disk space are free"
    return "its folder cannot be read"


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
