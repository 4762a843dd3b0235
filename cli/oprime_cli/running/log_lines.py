"""What a service's log says last about an error."""

import json
import re
from pathlib import Path
from typing import Any

TAIL_BYTES = 65_536
LINE_CHARACTERS = 400

_ERROR = re.compile(r"^([A-Za-z_][\w.]*(Error|Exception|Interrupt)\b|.*\b(ERROR|CRITICAL|FATAL|error:)\b)")


def last_error(log: Path) -> str:
    """The newest error in a log, else its last line; a structured entry as `event: error`. Empty for an empty log."""
    lines = tail(log)
    for matches in (_structured_error, _plain_error):
        for line in reversed(lines):
            found = matches(line)
            if found:
                return found[:LINE_CHARACTERS]
    return lines[-1][:LINE_CHARACTERS] if lines else ""


def tail(log: Path) -> list[str]:
    """The last lines that are not blank."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _structured_error(line: str) -> str:
    if not line.startswith("{"):
        return ""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return ""
    if entry.get("level") not in {"error", "critical"}:
        return ""
    said = entry.get("error") or str(entry.get("exception", "")).strip().rpartition("\n")[2]
    event = str(entry.get("event", "error"))
    return f"{event}: {said}" if said else event


def _plain_error(line: str) -> str:
    return line if not line.startswith("{") and _ERROR.match(line) else ""
