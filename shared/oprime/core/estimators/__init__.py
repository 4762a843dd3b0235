"""The advantage estimators, one file each: whatever stands in this folder with an `ESTIMATOR` can be chosen (docs/extending.md)."""

from oprime.core.advantage import Estimator
from oprime.core.one_file import file_names, object_of


def names() -> tuple[str, ...]:
    """Values of `algorithm.estimator`, in alphabetical order."""
    return file_names(__path__)


def named(name: str) -> Estimator:
    """Raises ValueError for a name that no file has."""
    return object_of(__name__, name, names(), attribute="ESTIMATOR", kind="estimator")
