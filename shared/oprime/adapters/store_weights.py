"""Weight versions as directories in Hugging Face form, on a disk or behind any fsspec URL.

`v00000012/` holds safetensors shards, the model's config and tokenizer files, and `manifest.json`. A version exists from
the moment its manifest does.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import fsspec
import structlog
import xxhash

from oprime.adapters.weight_manifest import (
    INDEX,
    MANIFEST,
    WEIGHTS_SUFFIX,
    Manifest,
    describe,
    file_hash,
    index_of,
    model_files,
    read_manifest,
    verify,
)
from oprime.ports import WeightVersion
from oprime.runtime.errors import OprimeError, SettingsError, WeightsRefusedError, WeightVersionMissingError

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()

Dtype = Literal["float32", "bfloat16"]

_NAME = re.compile(r"v(\d{8,})")
_STAGING = ".staging-"
_SHARD_BYTES = 2 * 1024**3
_CACHED_VERSIONS = 3


def version_name(version: int) -> str:
    return f"v{version:08d}"


def model_directory(path: str) -> Path:
    """The directory of a model given as a directory or a hub id; a hub id is downloaded once.

    Raises SettingsError when it is neither.
    """
    directory = Path(path)
    if directory.is_dir():
        return directory
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{WEIGHTS_SUFFIX}", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"model {path} is neither a directory nor a hub id that can be fetched: {reason}") from error


class StoreWeights:
    """The WeightStore port on a directory (`root_url` without a scheme) or an fsspec URL.

    A directory is read in place. From a URL, versions are downloaded into `cache` first. `template` is the model
    directory whose config and tokenizer files go into every version; versions of another config are refused.
    """

    def __init__(
        self, root_url: str, *, template: Path, cache: Path | None = None, dtype: Dtype = "float32", shard_bytes: int = _SHARD_BYTES
    ) -> None:
        """`template` may be a hub id; `cache` defaults to a folder of the user's cache. Raises SettingsError."""
        self.root_url = root_url
        self._is_remote = "://" in root_url
        cache = cache or _default_cache(root_url)
        template = model_directory(str(template))
        if not (template / "config.json").is_file():
            raise SettingsError(f"model {template} has no config.json: give the directory of a Hugging Face model")
        self._local = cache if self._is_remote else Path(root_url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(root_url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"store.url ({root_url}) cannot be used: {error}") from error
        self._template = template
        self._config_hash = file_hash(template / "config.json")
        self._dtype: Dtype = dtype
        self._shard_bytes = shard_bytes
        self._verified: dict[int, tuple[object, WeightVersion]] = {}
        self._lock = threading.Lock()

    def publish(self, version: int, tensors: Iterator[tuple[str, "torch.Tensor"]], *, parent: int | None) -> WeightVersion:
        """Write a version; publishing an existing one returns it unchanged. `tensors` is used up in any case.

        Raises OprimeError when it cannot be written; then nothing of it is visible.
        """
        if self._exists(version):
            for _ in tensors:  # iterating is collective: the other ranks take part
                pass
            return self.fetch(version)

        def write(staging: Path) -> None:
            _write_shards(staging, tensors, self._dtype, self._shard_bytes)
            for file in model_files(self._template):
                shutil.copyfile(file, staging / file.name)

        return self._publish(version, parent, write)

    def publish_directory(self, version: int, directory: Path) -> WeightVersion:
        """Publish the weights of a model directory byte for byte; an existing version is returned unchanged.

        Raises SettingsError when the directory holds no safetensors file.
        """
        if self._exists(version):
            return self.fetch(version)
        directory = model_directory(str(directory))
        shards = sorted(directory.glob(f"*{WEIGHTS_SUFFIX}"))
        if not shards:
            raise SettingsError(f"model {directory} holds no safetensors files: convert it with save_pretrained")

        def write(staging: Path) -> None:
            for file in (*shards, *([directory / INDEX] if (directory / INDEX).is_file() else []), *model_files(directory)):
                _link_or_copy(file.resolve(), staging / file.name)

        return self._publish(version, None, write)

    def latest(self) -> int | None:
        return max(self.versions(), default=None)

    def versions(self) -> list[int]:
        """Existing versions, oldest first. Raises OprimeError when the store cannot be listed."""
        try:
            manifests = self._files.glob(f"{self._root}/v*/{MANIFEST}")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OprimeError(f"the weight store {self.root_url} cannot be listed: {error}") from error
        names = (str(manifest).rsplit("/", 2)[-2] for manifest in manifests)
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def fetch(self, version: int) -> WeightVersion:
        """Make a version local and check every tensor's checksum; one that was checked is not read again unless its files changed.

        Raises WeightVersionMissingError, or WeightsRefusedError naming the file or tensor and what is wrong with it.
        """
        with self._lock:
            manifest = self._manifest(version)
            directory = self._local / version_name(version)
            known = self._verified.get(version)
            if known is not None and known[0] == _signature(directory, manifest):
                return known[1]
            if self._is_remote:
                self._download(version, manifest)
            else:
                verify(directory, manifest)
            return self._remember(directory, manifest)

    def prune(self, keep: set[int], newest: int) -> list[int]:
        """Remove all versions but those in `keep` and the `newest` most recent; returns what was removed."""
        versions = self.versions()
        gone = [version for version in versions[: max(0, len(versions) - newest)] if version not in keep]
        for version in gone:
            self._remove(version)
        return gone

    # -- writing

    def _publish(self, version: int, parent: int | None, write: Callable[[Path], None]) -> WeightVersion:
        with self._lock, self._staged(version) as staging:
            if not self._exists(version):  # another writer may have been first
                with self._explained(version):
                    write(staging)
                    manifest = describe(staging, version=version, parent=parent)
                    if any(entry.file != f"model{WEIGHTS_SUFFIX}" for entry in manifest.tensors) and not (staging / INDEX).exists():
                        (staging / INDEX).write_text(json.dumps(index_of(manifest.tensors), indent=1), encoding="utf-8")
                        manifest = describe(staging, version=version, parent=parent)
                    if not self._is_remote:
                        _write_manifest(staging, manifest)
                    self._upload(staging, manifest)
                    self._install(staging, version)
                self._remember(self._local / version_name(version), manifest)
                log.info("weights_published", weight_version=version, bytes=manifest.bytes, tensors=len(manifest.tensors))
        return self.fetch(version)

    def _upload(self, staging: Path, manifest: Manifest) -> None:
        """Copy a version to the URL, its manifest last, so that a broken upload stays invisible."""
        if not self._is_remote:
            return
        target = f"{self._root}/{version_name(manifest.version)}"
        self._files.makedirs(target, exist_ok=True)
        for entry in manifest.files:
            self._files.put_file(str(staging / entry.name), f"{target}/{entry.name}")
        self._files.pipe_file(f"{target}/{MANIFEST}.partial", manifest.to_json().encode())
        self._files.mv(f"{target}/{MANIFEST}.partial", f"{target}/{MANIFEST}")

    def _install(self, staging: Path, version: int) -> None:
        """Give a complete directory its name, in one step."""
        target = self._local / version_name(version)
        if target.exists():  # without a manifest, or it would have been used
            shutil.rmtree(target)
        staging.rename(target)
        _sync(self._local)

    @contextmanager
    def _staged(self, version: int) -> Iterator[Path]:
        """A directory to fill, under the lock of the local folder. What a killed writer left is removed first."""
        with self._explained(version):
            self._local.mkdir(parents=True, exist_ok=True)
        with (self._local / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._local.glob(f"{_STAGING}*"):
                log.warning("abandoned_weights_removed", directory=str(left))
                shutil.rmtree(left)
            staging = self._local / f"{_STAGING}{version_name(version)}"
            with self._explained(version):
                staging.mkdir()
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _explained(self, version: int) -> Iterator[None]:
        """Turn a failed write into a message with place, cause and free space."""
        try:
            yield
        except OprimeError:
            raise
        except Exception as error:
            # safetensors reports a full disk as an error of its own, with the system's text in it.
            is_write_error = isinstance(error, OSError) or "os error" in str(error) or "IoError" in str(error)
            if not is_write_error:
                raise
            is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
            cause = "the disk is full" if is_full else str(error)
            raise OprimeError(
                f"weight version {version} cannot be written to {self.root_url} (by way of {self._local}): {cause}; "
                f"{_free_mib(self._local)} MiB are free there. Free space, lower store.keep_versions, or set store.url to another place"
            ) from error

    # -- reading

    def _exists(self, version: int) -> bool:
        try:
            return bool(self._files.exists(f"{self._root}/{version_name(version)}/{MANIFEST}"))
        except OSError as error:
            raise OprimeError(f"the weight store {self.root_url} does not answer: {error}") from error

    def _manifest(self, version: int) -> Manifest:
        file = f"{self._root}/{version_name(version)}/{MANIFEST}"
        try:
            text = self._files.cat_file(file)
        except FileNotFoundError as error:
            known = ", ".join(str(known) for known in self.versions()) or "none"
            raise WeightVersionMissingError(f"no weight version {version} in {self.root_url}; it holds {known}") from error
        except OSError as error:
            raise WeightsRefusedError(f"weight version {version}: {file} cannot be read: {error}") from error
        manifest = read_manifest(text, version=version, origin=file)
        if manifest.config_hash != self._config_hash:
            raise WeightsRefusedError(
                f"weight version {version} in {self.root_url} was made for another model: its config.json has checksum "
                f"{manifest.config_hash}, that of {self._template} has {self._config_hash}"
            )
        return manifest

    def _remember(self, directory: Path, manifest: Manifest) -> WeightVersion:
        version = WeightVersion(version=manifest.version, directory=directory, bytes=manifest.bytes)
        self._verified[manifest.version] = (_signature(directory, manifest), version)
        return version

    def _download(self, version: int, manifest: Manifest) -> None:
        target = self._local / version_name(version)
        with self._staged(version) as staging:
            if self._is_cached(target, manifest):
                return
            with self._explained(version):
                for entry in manifest.files:
                    try:
                        self._files.get_file(f"{self._root}/{version_name(version)}/{entry.name}", str(staging / entry.name))
                    except FileNotFoundError as error:
                        raise WeightsRefusedError(f"weight version {version} ({self.root_url}): file {entry.name} is missing") from error
                verify(staging, manifest)
                _write_manifest(staging, manifest)
                self._install(staging, version)
            self._forget_old_copies(version)

    @staticmethod
    def _is_cached(target: Path, manifest: Manifest) -> bool:
        try:
            if (target / MANIFEST).read_text(encoding="utf-8") != manifest.to_json():
                return False
            verify(target, manifest)
        except (OSError, WeightsRefusedError):
            return False
        return True

    def _forget_old_copies(self, current: int) -> None:
        cached = sorted(int(match[1]) for entry in self._local.iterdir() if (match := _NAME.fullmatch(entry.name)))
        for version in cached[:-_CACHED_VERSIONS]:
            if version != current:
                shutil.rmtree(self._local / version_name(version), ignore_errors=True)
                self._verified.pop(version, None)

    def _remove(self, version: int) -> None:
        directory = f"{self._root}/{version_name(version)}"
        try:
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{directory}/{MANIFEST}")
            with suppress(FileNotFoundError):
                self._files.rm(directory, recursive=True)
        except OSError as error:
            raise OprimeError(f"weight version {version} cannot be removed from {self.root_url}: {error}") from error
        self._verified.pop(version, None)
        log.info("weights_removed", weight_version=version)


def _write_shards(directory: Path, tensors: Iterator[tuple[str, "torch.Tensor"]], dtype: Dtype, shard_bytes: int) -> None:
    """Write `model.safetensors`, or `model-0000i-of-0000n.safetensors` when one file would grow beyond `shard_bytes`."""
    # torch is loaded by those who write; the coordinator only looks which versions exist.
    import torch
    from safetensors.torch import save_file

    shard: dict[str, torch.Tensor] = {}
    names: list[str] = []

    def close_shard() -> None:
        names.append(f"shard-{len(names)}{WEIGHTS_SUFFIX}")
        save_file(shard, directory / names[-1], metadata={"format": "pt"})
        shard.clear()

    for name, tensor in tensors:
        kept = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
        # A copy: the iterator may reuse its buffers, and tied weights may not share memory in one file.
        row = tensor.detach().to(device="cpu", dtype=kept, copy=True).contiguous()
        if shard and sum(other.nbytes for other in shard.values()) + row.nbytes > shard_bytes:
            close_shard()
        shard[name] = row
    close_shard()
    for number, name in enumerate(names, start=1):
        final = f"model{WEIGHTS_SUFFIX}" if len(names) == 1 else f"model-{number:05d}-of-{len(names):05d}{WEIGHTS_SUFFIX}"
        (directory / name).rename(directory / final)


def _default_cache(root_url: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "oprime" / "weights" / xxhash.xxh3_64_hexdigest(root_url.encode())


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest after everything else is on the disk, and give it its name in one step."""
    for entry in manifest.files:
        _sync(directory / entry.name)
    partial = directory / f"{MANIFEST}.partial"
    partial.write_text(manifest.to_json(), encoding="utf-8")
    _sync(partial)
    partial.rename(directory / MANIFEST)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _signature(directory: Path, manifest: Manifest) -> object:
    """Changes when a file of the version changes."""
    states: list[tuple[str, int, int, int]] = []
    for entry in manifest.files:
        try:
            state = (directory / entry.name).stat()
        except OSError:
            continue
        states.append((entry.name, state.st_size, state.st_mtime_ns, state.st_ino))
    return (manifest, tuple(states))


def _free_mib(path: Path) -> int:
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    return shutil.disk_usage(existing).free // 2**20
