"""Processes that tokenize and compute nothing: transformers without torch. Imports nothing heavy."""

import os
import sys

_SILENT = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


class _Process:
    """What holds for the whole process."""

    makes_models = True


def make_no_models() -> None:
    """Say that this process makes no model: its tokenizers then cost 1 CPU second to load instead of 5, and a third of the memory.

    transformers looks for torch when it is imported, and where it finds it a tokenizer brings all of torch in. Torch itself can still be
    imported afterwards.
    """
    _Process.makes_models = False


def import_transformers() -> None:
    """Import transformers before its first use, without torch in a process that makes no model."""
    if _Process.makes_models or "transformers" in sys.modules or "torch" in sys.modules:
        return
    said = os.environ.get(_SILENT)
    sys.modules["torch"] = None  # type: ignore[assignment] - how Python marks what is not to be found
    os.environ[_SILENT] = "1"
    try:
        import transformers  # noqa: F401
    finally:
        del sys.modules["torch"]
        del os.environ[_SILENT]
        if said is not None:
            os.environ[_SILENT] = said
