"""The corrections for rollouts of older weights, one file each: whatever stands in this folder with a `CORRECTION` can be chosen."""

from oprime.core.importance import Correction
from oprime.core.one_file import file_names, object_of


def names() -> tuple[str, ...]:
    """Values of `algorithm.correction`, in alphabetical order."""
    return file_names(__path__)


def named(name: str) -> Correction:
    """Raises ValueError for a name that no file has."""
    return object_of(__name__, name, names(), attribute="CORRECTION", kind="correction")
