"""The manifest of a weight version: what its directory must hold, tensor by tensor."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
from safetensors import SafetensorError, safe_open

from oprime.runtime.errors import WeightsRefusedError

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
FORMAT = 1
WEIGHTS_SUFFIX = ".safetensors"
WHOLE, ADAPTER = f"model{WEIGHTS_SUFFIX}", f"adapter_model{WEIGHTS_SUFFIX}"
"""Names of the weights' file, where there is one: of a whole model, and of an adapter in PEFT's form."""
INDEX = "model.safetensors.index.json"
_MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    name: str
    dtype: str
    """As torch names it, for example float32."""
    shape: tuple[int, ...]
    bytes: int
    xxh3: str
    """xxh3-64 of the tensor's bytes, 16 hex digits."""
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    name: str
    bytes: int
    xxh3: str = ""
    """xxh3-64 of the file; empty for weight files, whose tensors have checksums of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaEntry:
    """The one file that a version consists of that is stored as what changed."""

    base: int
    """The version that it changes."""
    file: str
    bytes: int
    xxh3: str
    """xxh3-64 of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    version: int
    parent: int | None
    """The version that this one was trained from."""
    config_hash: str
    """xxh3-64 of config.json."""
    bytes: int
    """Of all tensors."""
    tensors: tuple[TensorEntry, ...]
    files: tuple[FileEntry, ...]
    """Of the complete version."""
    delta: DeltaEntry | None = None
    """Where the version is stored as what changed; its files are then made from this and the base."""

    def to_json(self) -> str:
        document = asdict(self)
        if self.delta is None:
            del document["delta"]
        return json.dumps({"format": FORMAT, **document}, indent=1)

    @property
    def complete(self) -> "Manifest":
        """The manifest of the same version with all its files."""
        return replace(self, delta=None)

    @property
    def stored(self) -> list[str]:
        """Names of the files that the store holds of it."""
        return [self.delta.file] if self.delta else [entry.name for entry in self.files]

    def is_laid_out_as(self, other: "Manifest") -> bool:
        """Whether both consist of equal files but for the values of their tensors."""

        def layout(manifest: Manifest) -> object:
            return [replace(entry, xxh3="") for entry in manifest.tensors], manifest.files

        return layout(self) == layout(other)


def read_manifest(text: str | bytes, *, version: int, origin: str) -> Manifest:
    """Parse a manifest. Raises WeightsRefusedError when the text is no manifest of `version`."""
    try:
        document = json.loads(text)
        form = document.pop("format")
        tensors = tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in document.pop("tensors"))
        files = tuple(FileEntry(**entry) for entry in document.pop("files"))
        delta = DeltaEntry(**entry) if (entry := document.pop("delta", None)) else None
        manifest = Manifest(**document, tensors=tensors, files=files, delta=delta)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsRefusedError(f"weight version {version}: {origin} is damaged ({error!r}); publish the version again") from error
    if form != FORMAT or manifest.version != version:
        raise WeightsRefusedError(
            f"weight version {version}: {origin} has format {form} and version {manifest.version}; expected {FORMAT} and {version}"
        )
    if delta is not None and not 0 <= delta.base < version:
        raise WeightsRefusedError(f"weight version {version}: {origin} is based on version {delta.base}, which is not older")
    for entry in (*files, *([FileEntry(name=delta.file, bytes=delta.bytes)] if delta else [])):
        if entry.name != Path(entry.name).name or entry.name in ("", ".", ".."):
            raise WeightsRefusedError(f"weight version {version}: {origin} names the file {entry.name!r}, which is not a plain file name")
    return manifest


def describe(directory: Path, *, version: int, parent: int | None) -> Manifest:
    """Make the manifest of a complete model directory. Raises what safetensors raises when a file is damaged."""
    shards = sorted(directory.glob(f"*{WEIGHTS_SUFFIX}"))
    tensors = tuple(entry for shard in shards for entry in _tensor_entries(shard))
    names = (file.name for file in sorted(directory.iterdir()) if file.is_file() and file.name != MANIFEST)
    files = tuple(
        FileEntry(
            name=name, bytes=(directory / name).stat().st_size, xxh3="" if name.endswith(WEIGHTS_SUFFIX) else file_hash(directory / name)
        )
        for name in names
    )
    return Manifest(
        version=version,
        parent=parent,
        config_hash=file_hash(directory / "config.json"),
        bytes=sum(entry.bytes for entry in tensors),
        tensors=tensors,
        files=files,
    )


def verify(directory: Path, manifest: Manifest) -> None:
    """Compare a directory with its manifest. Raises WeightsRefusedError naming the file or tensor and what is wrong with it."""
    where = f"weight version {manifest.version} ({directory})"
    for entry in manifest.files:
        file = directory / entry.name
        if not file.is_file():
            raise WeightsRefusedError(f"{where}: file {entry.name} is missing")
        if file.stat().st_size != entry.bytes:
            raise WeightsRefusedError(f"{where}: file {entry.name} has {file.stat().st_size} bytes, its manifest says {entry.bytes}")
        if entry.xxh3 and file_hash(file) != entry.xxh3:
            raise WeightsRefusedError(f"{where}: file {entry.name} has checksum {file_hash(file)}, its manifest says {entry.xxh3}")
    for name in sorted({entry.file for entry in manifest.tensors}):
        expected = {entry.name: entry for entry in manifest.tensors if entry.file == name}
        try:
            _verify_shard(directory / name, expected, where)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsRefusedError(f"{where}: file {name} cannot be read: {error}") from error


def _verify_shard(file: Path, expected: dict[str, TensorEntry], where: str) -> None:
    found = {entry.name: entry for entry in _tensor_entries(file)}
    for name in sorted(expected.keys() ^ found.keys()):
        what = "is missing from" if name in expected else "is not in the manifest but in"
        raise WeightsRefusedError(f"{where}: tensor {name} {what} file {file.name}")
    for name, entry in expected.items():
        actual = found[name]
        if (actual.dtype, actual.shape) != (entry.dtype, entry.shape):
            raise WeightsRefusedError(
                f"{where}: tensor {name} in {file.name} is {actual.dtype} {list(actual.shape)}, "
                f"its manifest says {entry.dtype} {list(entry.shape)}"
            )
        if actual.xxh3 != entry.xxh3:
            raise WeightsRefusedError(f"{where}: tensor {name} in {file.name} has checksum {actual.xxh3}, its manifest says {entry.xxh3}")


def _tensor_entries(file: Path) -> Iterator[TensorEntry]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            tensor = opened.get_tensor(name)
            yield TensorEntry(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                bytes=tensor.numel() * tensor.element_size(),
                xxh3=tensor_hash(tensor),
                file=file.name,
            )


def tensor_hash(tensor: "torch.Tensor") -> str:
    """xxh3-64 of a tensor's bytes."""
    import torch  # slow, and only readers need it

    return xxhash.xxh3_64_hexdigest(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def file_hash(file: Path) -> str:
    return xxhash.xxh3_64_hexdigest(file.read_bytes())


def model_files(template: Path) -> list[Path]:
    """Config, tokenizer and code files of a model directory: all that is needed to load it, besides its weights."""
    found = {file.name: file for pattern in _MODEL_FILES for file in template.glob(pattern) if file.is_file()}
    return [file for name, file in sorted(found.items()) if name != MANIFEST and not name.endswith(".index.json")]


def index_of(tensors: Iterator[TensorEntry] | tuple[TensorEntry, ...]) -> dict[str, Any]:
    """The index file that transformers and vLLM read when weights are spread over several files."""
    entries = tuple(tensors)
    return {
        "metadata": {"total_size": sum(entry.bytes for entry in entries)},
        "weight_map": {entry.name: entry.file for entry in sorted(entries, key=lambda entry: entry.name)},
    }
