"""How the recipe calls oprime: by its command line, as a person would."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def oprime(*words: str) -> None:
    """Run a command; its output is the person's. Raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", "oprime_cli.main", *words], check=True)


def settings(values: Mapping[str, Any]) -> list[str]:
    """Settings for a command line."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL, whole or not at all; returns how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, number = path.with_suffix(".partial"), 0
    with partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    partial.rename(path)
    return number


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream)
