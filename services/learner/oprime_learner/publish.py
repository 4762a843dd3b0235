"""Which weight versions must stay."""

from collections.abc import Iterable
from pathlib import Path


def versions_to_keep(checkpoints: Path, in_use: Iterable[int]) -> set[int]:
    """Version 0, the versions of checkpoints, and those that replicas sample with."""
    saved = {int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-*")}
    return {0} | saved | set(in_use)
