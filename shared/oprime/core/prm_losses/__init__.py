"""The losses of the implicit PRM, one file each: whatever stands in this folder with a `LOSS` can be chosen (docs/extending.md)."""

from oprime.core.one_file import file_names, object_of
from oprime.core.prm_loss import PrmLoss


def names() -> tuple[str, ...]:
    """Values of `prm.loss`, in alphabetical order."""
    return file_names(__path__)


def named(name: str) -> PrmLoss:
    """Raises ValueError for a name that no file has."""
    return object_of(__name__, name, names(), attribute="LOSS", kind="PRM loss")
