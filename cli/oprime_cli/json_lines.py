"""One line of a JSONL file, as JSON has it: in UTF-8, with or without the mark that some editors put before it."""

import json
from typing import Any


def json_of(line: bytes) -> Any:
    """Raises ValueError, and RecursionError for what is nested too deep."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = line[error.start]
        raise ValueError(f"byte {error.start + 1} (0x{bad:02x}) is not UTF-8; save the file as UTF-8, one JSON object per line") from error
    return json.loads(text)
