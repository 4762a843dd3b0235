"""Versioned weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightVersion:
    """A published, immutable version of a model's weights."""

    version: int
    directory: Path
    """Local directory in Hugging Face form (safetensors, config, tokenizer)."""
    bytes: int


class WeightStore(Protocol):
    """Versioned weights. A version exists from the moment its manifest does."""

    def publish(self, version: int, tensors: Iterator[tuple[str, "torch.Tensor"]], *, parent: int | None) -> WeightVersion:
        """Write a version; publishing an existing one returns it unchanged."""
        ...

    def publish_directory(self, version: int, directory: Path) -> WeightVersion:
        """Publish the model of a Hugging Face directory, byte for byte; an existing version is returned unchanged."""
        ...

    def latest(self) -> int | None: ...

    def versions(self) -> list[int]: ...

    def fetch(self, version: int) -> WeightVersion:
        """Make a version local and check every tensor's checksum; WeightsRefusedError names what is wrong."""
        ...

    def prune(self, keep: set[int], newest: int) -> list[int]:
        """Remove all versions but those in `keep` and the `newest` most recent; returns what was removed."""
        ...
