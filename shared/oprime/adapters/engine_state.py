"""A train engine's state as files: named tensors in safetensors shards, an index beside them, random states per rank. No pickle."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oprime.runtime.errors import CheckpointError

STATE_FILE = "engine.json"
STATE_FORMAT = 1
SHARD_BYTES = 2 << 30


class ShardWriter:
    """Writes named tensors into safetensors files of bounded size. After a failure it goes on silently: others must not wait."""

    def __init__(self, directory: Path, *, active: bool) -> None:
        self._directory = directory
        self._active = active
        self._pending: dict[str, Tensor] = {}
        self._places: dict[str, str] = {}
        self._shards = 0
        self.failure: str | None = None
        with self._noting(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        if not self._active or self.failure:
            return
        self._pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if sum(pending.nbytes for pending in self._pending.values()) >= SHARD_BYTES:
            self._flush()

    def finish(self, *, adam_steps: int, world_size: int) -> None:
        if not self._active or self.failure:
            return
        self._flush()
        document = {"format": STATE_FORMAT, "adam_steps": adam_steps, "world_size": world_size, "tensors": self._places}
        with self._noting(self._directory / STATE_FILE):
            (self._directory / STATE_FILE).write_text(json.dumps(document), encoding="utf-8")

    def _flush(self) -> None:
        file = f"state-{self._shards:05d}.safetensors"
        with self._noting(self._directory / file):
            save_file(self._pending, self._directory / file)
        self._places |= dict.fromkeys(self._pending, file)
        self._pending = {}
        self._shards += 1

    @contextmanager
    def _noting(self, path: Path) -> Iterator[None]:
        """Remember the first failure instead of raising it."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            self.failure = self.failure or _unwritable(path, error)


class ShardReader:
    """Reads what `ShardWriter` wrote, a tensor at a time."""

    def __init__(self, directory: Path, state: dict[str, Any]) -> None:
        self._directory = directory
        self._places: dict[str, str] = state["tensors"]
        self._file = ""
        self._open: Any = None

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless exactly these tensors are there."""
        if self._places.keys() != shapes.keys():
            odd = sorted(self._places.keys() ^ shapes.keys())[0]
            whose = "the checkpoint" if odd in self._places else "the model"
            raise CheckpointError(
                f"{self._directory} was saved from another model: only {whose} has {odd}; load it into the model it came from"
            )
        for name, shape in shapes.items():
            found = tuple(self._shard(name).get_slice(name).get_shape())
            if found != shape:
                raise CheckpointError(f"{self._directory} was saved from another model: {name} has shape {found} there and {shape} here")

    def tensor(self, name: str) -> Tensor:
        return self._shard(name).get_tensor(name)

    def _shard(self, name: str) -> Any:
        if self._places[name] != self._file:
            path = self._directory / self._places[name]
            try:
                self._open = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}; resume from an older checkpoint") from error
            self._file = self._places[name]
        return self._open


def read_state(directory: Path) -> dict[str, Any]:
    path = directory / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; give the directory that save wrote") from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise CheckpointError(f"{path} is not of format {STATE_FORMAT}: it was written by another version of oprime")
    return state


def write_random_state(directory: Path, rank: int) -> str | None:
    """Save this rank's random states; returns what went wrong."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    path = directory / f"random-{rank:05d}.safetensors"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(states, path)
    except (OSError, SafetensorError) as error:
        return _unwritable(path, error)
    return None


def _unwritable(path: Path, error: Exception) -> str:
    return str(CheckpointError.unwritable(path, error if isinstance(error, OSError) else OSError(0, str(error))))


def read_random_state(directory: Path, rank: int) -> None:
    """Restore this rank's random states; a rank that the checkpoint did not have keeps its own."""
    path = directory / f"random-{rank:05d}.safetensors"
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as states:
        torch.set_rng_state(states.get_tensor("cpu"))
        if torch.cuda.is_available() and "cuda" in states.keys():  # noqa: SIM118  (not a dict)
            torch.cuda.set_rng_state(states.get_tensor("cuda"))
