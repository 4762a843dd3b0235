"""LiveCodeBench's private tests: JSON, or base64 of zlib of a pickle of a JSON string."""

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

from oprime_verifier.code.suite import BadTaskError

_FIELD = "tests.private_test_cases"


class _OnlyText(pickle.Unpickler):
    """Knows no class and calls nothing: a pickle can hold plain text and numbers only."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise BadTaskError(f"{_FIELD} is a pickle that asks for {module_name}.{global_name}; only a string is loaded")

    def persistent_load(self, pid: Any) -> Any:
        raise BadTaskError(f"{_FIELD} is a pickle with a persistent id; only a string is loaded")


def private_tests(value: Any, max_chars: int) -> list[Any]:
    """Raises BadTaskError."""
    if value in (None, "", []):
        return []
    if isinstance(value, str):
        value = _from_text(value, max_chars)
    if not isinstance(value, list):
        raise BadTaskError(f"{_FIELD} is a {type(value).__name__}, not a list")
    return value


def _from_text(text: str, max_chars: int) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        packed = zlib.decompressobj()
        unpacked = packed.decompress(base64.b64decode(text, validate=True), max_chars)
        if packed.unconsumed_tail:
            raise BadTaskError(f"{_FIELD} has more than {max_chars} bytes when unpacked")
        loaded = _OnlyText(io.BytesIO(unpacked)).load()
        if type(loaded) is not str:
            raise BadTaskError(f"{_FIELD} is a pickled {type(loaded).__name__}, not a string")
        return json.loads(loaded)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise BadTaskError(f"{_FIELD} is neither JSON nor base64 of zlib of a pickled JSON string ({type(error).__name__})") from error
