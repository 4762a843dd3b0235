"""Weight versions as directories in Hugging Face form, on a disk or behind any fsspec URL.

`v00000012/` holds safetensors shards, the model's config and tokenizer files, and `manifest.json`; or, where not every version is stored
whole, what changed against the version before it, and the manifest. A version exists from the moment its manifest does. A version that is
an adapter has the files of PEFT in place of the shards, and says which model it belongs to.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import fsspec
import structlog
import xxhash

from oprime.adapters.weight_delta import DELTA, apply_delta, delta_hash, write_delta
from oprime.adapters.weight_manifest import (
    ADAPTER,
    INDEX,
    MANIFEST,
    WEIGHTS_SUFFIX,
    WHOLE,
    DeltaEntry,
    Manifest,
    describe,
    file_hash,
    index_of,
    model_files,
    read_manifest,
    tensor_hash,
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

    What is whole in a directory is read in place. All else is put together in `cache` first, from which older versions go by themselves.
    `template` is the model directory whose config and tokenizer files go into every version; versions of another config are refused.
    """

    def __init__(
        self,
        root_url: str,
        *,
        template: Path,
        cache: Path | None = None,
        dtype: Dtype = "float32",
        shard_bytes: int = _SHARD_BYTES,
        full_every: int = 1,
        adapter_files: Mapping[str, bytes] | None = None,
    ) -> None:
        """`template` may be a hub id; `cache` defaults to a folder of the user's cache. Raises SettingsError.

        Versions that are multiples of `full_every` are published whole, others as what changed, where there is a version to compare with.
        With `adapter_files`, which go into every one of them, the tensors that are published are those of adapters.
        """
        self.root_url = root_url
        self._is_remote = "://" in root_url
        self._cache = cache or _default_cache(root_url if self._is_remote else str(Path(root_url).absolute()))
        self._full_every = full_every
        self._adapter_files = adapter_files
        template = model_directory(str(template))
        if not (template / "config.json").is_file():
            raise SettingsError(f"model {template} has no config.json: give the directory of a Hugging Face model")
        try:
            self._files, self._root = fsspec.core.url_to_fs(root_url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"store.url ({root_url}) cannot be used: {error}") from error
        self._template = template
        self._config_hash = file_hash(template / "config.json")
        self._dtype: Dtype = dtype
        self._shard_bytes = shard_bytes
        self._verified: dict[int, tuple[object, WeightVersion]] = {}
        self._bases: dict[int, int | None] = {}
        """For versions that were looked up: the one that each changes, or None if it is whole."""
        self._lock = threading.Lock()

    def publish(self, version: int, tensors: Iterator[tuple[str, "torch.Tensor"]], *, parent: int | None) -> WeightVersion:
        """Write a version; publishing an existing one returns it unchanged, and says so in the log where it has other weights.

        `tensors` is used up in any case. Raises OprimeError when it cannot be written; then nothing of it is visible.
        """
        if self._exists(version):
            self._compare(self._manifest(version), tensors)
            return self.fetch(version)

        def write(staging: Path) -> None:
            if self._adapter_files is None:
                _write_shards(staging, tensors, self._dtype, self._shard_bytes)
            else:
                _write_shards(staging, tensors, self._dtype, sys.maxsize, name=ADAPTER)
            for file in model_files(self._template):
                shutil.copyfile(file, staging / file.name)
            for name, content in (self._adapter_files or {}).items():
                (staging / name).write_bytes(content)

        return self._publish(version, parent, write, self._base_for(version, parent))

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

        return self._publish(version, None, write, None)

    def latest(self) -> int | None:
        return max(self.versions(), default=None)

    def versions(self) -> list[int]:
        """Existing versions, oldest first. Raises OprimeError when the store cannot be listed."""
        try:
            with self._answering("list the versions"):
                manifests = self._files.glob(f"{self._root}/v*/{MANIFEST}")
        except FileNotFoundError:
            return []
        names = (str(manifest).rsplit("/", 2)[-2] for manifest in manifests)
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def fetch(self, version: int) -> WeightVersion:
        """Make a version local and check every tensor's checksum; one that was checked is not read again unless its files changed.

        Raises WeightVersionMissingError, or WeightsRefusedError naming the file or tensor and what is wrong with it.
        """
        with self._lock:
            manifest = self._manifest(version)
            if (known := self._known(manifest)) is not None:
                return known
            if self._is_in_place(manifest):
                verify(self._directory(manifest), manifest)
            else:
                self._put_into_cache(manifest)
            return self._remember(manifest)

    def prune(self, keep: set[int], newest: int) -> list[int]:
        """Remove all versions but those in `keep`, the `newest` most recent, and what these are based on; returns what was removed."""
        versions = self.versions()
        kept = {version for version in versions if version in keep} | set(versions[max(0, len(versions) - newest) :])
        for version in sorted(kept):
            kept |= self._bases_of(version)
        gone = [version for version in versions if version not in kept]
        # Newest first: what is left when this is cut short has its bases.
        for version in reversed(gone):
            self._remove(version)
        return gone

    # -- writing

    def _base_for(self, version: int, parent: int | None) -> WeightVersion | None:
        """The version that `version` is to be stored as a change of; None if it is to be whole."""
        if parent is None or version % self._full_every == 0:
            return None
        try:
            return self.fetch(parent)
        except WeightsRefusedError as error:
            log.warning("weights_published_whole", weight_version=version, reason=str(error))
            return None

    def _publish(self, version: int, parent: int | None, write: Callable[[Path], None], base: WeightVersion | None) -> WeightVersion:
        # What is stored whole in a directory is written there; all else is made in the cache, and what the store gets is copied from it.
        in_place = not self._is_remote and base is None
        with self._lock, self._staged(self._root_directory if in_place else self._cache, version) as staging:
            if not self._exists(version):  # another writer may have been first
                with self._explained(version):
                    write(staging)
                    manifest = _described(staging, version, parent)
                    stored = manifest if base is None else self._as_delta(manifest, base, staging)
                    if in_place:
                        _write_manifest(staging, manifest)
                    else:
                        self._upload(staging, stored)
                        (staging / DELTA).unlink(missing_ok=True)
                        _write_manifest(staging, manifest)
                    self._install(staging, version)
                self._remember(stored)
                self._forget_old_copies(version)
                log.info(
                    "weights_published",
                    weight_version=version,
                    bytes=manifest.bytes,
                    tensors=len(manifest.tensors),
                    stored_bytes=stored.delta.bytes if stored.delta else manifest.bytes,
                )
        return self.fetch(version)

    def _as_delta(self, manifest: Manifest, base: WeightVersion, staging: Path) -> Manifest:
        """The manifest under which a version is stored: as a change of `base`, whose file is now in `staging`, where that is possible."""
        before = read_manifest((base.directory / MANIFEST).read_bytes(), version=base.version, origin=str(base.directory / MANIFEST))
        if not manifest.is_laid_out_as(before):
            return manifest
        file = staging / DELTA
        write_delta(file, manifest.tensors, base=base.directory, new=staging)
        return replace(manifest, delta=DeltaEntry(base=base.version, file=DELTA, bytes=file.stat().st_size, xxh3=delta_hash(file)))

    def _compare(self, manifest: Manifest, tensors: Iterator[tuple[str, "torch.Tensor"]]) -> None:
        """Warn if `tensors` are not the weights of the version. Uses all of them up: iterating is collective."""
        known = {entry.name: entry.xxh3 for entry in manifest.tensors}
        found = {name: tensor_hash(_stored(tensor, self._dtype)) for name, tensor in tensors}
        # A version holds tied weights once, under a name of its writer's choice.
        different = [name for name in sorted(known.keys() & found.keys()) if known[name] != found[name]]
        if different:
            log.warning(
                "published_weights_differ", weight_version=manifest.version, tensors=len(different), of=len(known), first=different[0]
            )

    def _upload(self, staging: Path, manifest: Manifest) -> None:
        """Copy a version to the store, its manifest last, so that a broken upload stays invisible."""
        if not self._is_remote:
            with self._staged(self._root_directory, manifest.version) as place:
                for name in manifest.stored:
                    shutil.copyfile(staging / name, place / name)
                _write_manifest(place, manifest)
                self._install(place, manifest.version)
            return
        target = f"{self._root}/{version_name(manifest.version)}"
        with self._answering(f"take weight version {manifest.version}"):
            self._files.makedirs(target, exist_ok=True)
            for name in manifest.stored:
                self._files.put_file(str(staging / name), f"{target}/{name}")
            self._files.pipe_file(f"{target}/{MANIFEST}.partial", manifest.to_json().encode())
            self._files.mv(f"{target}/{MANIFEST}.partial", f"{target}/{MANIFEST}")

    @staticmethod
    def _install(staging: Path, version: int) -> None:
        """Give a complete directory its name, in one step."""
        target = staging.with_name(version_name(version))
        if target.exists():  # without a manifest, or it would have been used
            shutil.rmtree(target)
        staging.rename(target)
        _sync(target.parent)

    @contextmanager
    def _staged(self, folder: Path, version: int) -> Iterator[Path]:
        """A directory to fill, under the lock of `folder`. What a killed writer left is removed first."""
        with self._explained(version):
            folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(f"{_STAGING}*"):
                log.warning("abandoned_weights_removed", directory=str(left))
                shutil.rmtree(left)
            staging = folder / f"{_STAGING}{version_name(version)}"
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
            folder = self._cache if self._is_remote else self._root_directory
            raise OprimeError(
                f"weight version {version} cannot be written to {self.root_url} (by way of {folder}): {cause}; "
                f"{_free_mib(folder)} MiB are free there. Free space, lower store.keep_versions, or set store.url to another place"
            ) from error

    # -- reading

    @contextmanager
    def _answering(self, wanted: str) -> Iterator[None]:
        """Turn what the client of a URL raises, which may be anything, into an error of ours. That something is not there stays so."""
        try:
            yield
        except (FileNotFoundError, OprimeError):
            raise
        except Exception as error:
            if not self._is_remote and not isinstance(error, OSError):
                raise
            raise OprimeError(
                f"the weight store {self.root_url} cannot {wanted}: {type(error).__name__}: {error}; check store.url, the network, and "
                "that this user may read and write there"
            ) from error

    def _exists(self, version: int) -> bool:
        with self._answering(f"say whether it has weight version {version}"):
            return bool(self._files.exists(f"{self._root}/{version_name(version)}/{MANIFEST}"))

    def _manifest(self, version: int) -> Manifest:
        """As it is stored. Raises WeightVersionMissingError or WeightsRefusedError."""
        file = f"{self._root}/{version_name(version)}/{MANIFEST}"
        try:
            text = self._files.cat_file(file)
        except FileNotFoundError as error:
            known = ", ".join(str(known) for known in self.versions()) or "none"
            raise WeightVersionMissingError(f"no weight version {version} in {self.root_url}; it holds {known}") from error
        except Exception as error:
            if not self._is_remote and not isinstance(error, OSError):
                raise
            raise WeightsRefusedError(f"weight version {version}: {file} cannot be read: {error}") from error
        manifest = read_manifest(text, version=version, origin=file)
        if manifest.config_hash != self._config_hash:
            raise WeightsRefusedError(
                f"weight version {version} in {self.root_url} was made for another model: its config.json has checksum "
                f"{manifest.config_hash}, that of {self._template} has {self._config_hash}"
            )
        self._bases[version] = manifest.delta.base if manifest.delta else None
        return manifest

    def _bases_of(self, version: int) -> set[int]:
        """All versions that are needed to put this one together."""
        found: set[int] = set()
        while True:
            if version not in self._bases:
                try:
                    self._manifest(version)
                except WeightsRefusedError as error:
                    # It is of no use, but that is no reason to remove others.
                    log.warning("weights_damaged", weight_version=version, reason=str(error))
                    return found
            base = self._bases[version]
            if base is None:
                return found
            found.add(base)
            version = base

    @property
    def _root_directory(self) -> Path:
        return Path(self.root_url)

    def _is_in_place(self, manifest: Manifest) -> bool:
        return not self._is_remote and manifest.delta is None

    def _directory(self, manifest: Manifest) -> Path:
        """Where this process has the complete version, or will have it."""
        return (self._root_directory if self._is_in_place(manifest) else self._cache) / version_name(manifest.version)

    def _known(self, manifest: Manifest) -> WeightVersion | None:
        """The version, if this process has checked it and none of its files has changed since."""
        known = self._verified.get(manifest.version)
        return known[1] if known is not None and known[0] == _signature(self._directory(manifest), manifest) else None

    def _remember(self, manifest: Manifest) -> WeightVersion:
        directory = self._directory(manifest)
        version = WeightVersion(version=manifest.version, directory=directory, bytes=manifest.bytes)
        self._verified[manifest.version] = (_signature(directory, manifest), version)
        return version

    def _put_into_cache(self, manifest: Manifest) -> None:
        with self._staged(self._cache, manifest.version) as staging:
            if self._is_cached(manifest):
                return
            with self._explained(manifest.version):
                if manifest.delta is None:
                    self._get(manifest, staging)
                else:
                    self._put_together(manifest, staging)
                verify(staging, manifest)
                _write_manifest(staging, manifest.complete)
                self._install(staging, manifest.version)
            self._forget_old_copies(manifest.version)

    def _put_together(self, manifest: Manifest, staging: Path) -> None:
        """Fill `staging` with the newest complete version below that is at hand, or else in the store, and change it step by step."""
        changes, base = [manifest], self._base_of(manifest)
        while base.delta is not None and not self._is_cached(base):
            changes.append(base)
            base = self._base_of(base)
        if self._is_in_place(base) or self._is_cached(base):
            for entry in base.files:
                shutil.copyfile(self._directory(base) / entry.name, staging / entry.name)
        else:
            self._get(base, staging)
        for change in reversed(changes):
            assert change.delta is not None  # noqa: S101 - as `changes` was made
            self._get(change, staging)
            file = (staging / change.delta.file).rename(staging / DELTA)
            apply_delta(file, change.delta, change.tensors, staging)
            file.unlink()

    def _base_of(self, manifest: Manifest) -> Manifest:
        assert manifest.delta is not None  # noqa: S101 - callers have looked
        try:
            base = self._manifest(manifest.delta.base)
        except WeightVersionMissingError as error:
            raise WeightsRefusedError(f"weight version {manifest.version} changes version {manifest.delta.base}, which is gone") from error
        if not manifest.is_laid_out_as(base):
            raise WeightsRefusedError(f"weight version {manifest.version} changes version {base.version}, which has other tensors or files")
        return base

    def _get(self, manifest: Manifest, staging: Path) -> None:
        """Copy what the store holds of a version."""
        version = manifest.version
        for name in manifest.stored:
            try:
                with self._answering(f"give {name} of weight version {version}"):
                    self._files.get_file(f"{self._root}/{version_name(version)}/{name}", str(staging / name))
            except FileNotFoundError as error:
                raise WeightsRefusedError(f"weight version {version} ({self.root_url}): file {name} is missing") from error

    def _is_cached(self, manifest: Manifest) -> bool:
        target = self._cache / version_name(manifest.version)
        try:
            if (target / MANIFEST).read_text(encoding="utf-8") != manifest.complete.to_json():
                return False
            if not self._known(manifest):
                verify(target, manifest)
        except (OSError, WeightsRefusedError):
            return False
        return True

    def _forget_old_copies(self, current: int) -> None:
        if not self._cache.is_dir():
            return
        cached = sorted(int(match[1]) for entry in self._cache.iterdir() if (match := _NAME.fullmatch(entry.name)))
        for version in cached[:-_CACHED_VERSIONS]:
            if version != current:
                shutil.rmtree(self._cache / version_name(version), ignore_errors=True)
                self._verified.pop(version, None)

    def _remove(self, version: int) -> None:
        directory = f"{self._root}/{version_name(version)}"
        with self._answering(f"remove weight version {version}"):
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{directory}/{MANIFEST}")
            with suppress(FileNotFoundError):
                self._files.rm(directory, recursive=True)
        self._verified.pop(version, None)
        self._bases.pop(version, None)
        log.info("weights_removed", weight_version=version)


def _write_shards(
    directory: Path, tensors: Iterator[tuple[str, "torch.Tensor"]], dtype: Dtype, shard_bytes: int, *, name: str = WHOLE
) -> None:
    """Write the file `name`, or `model-0000i-of-0000n.safetensors` when one file would grow beyond `shard_bytes`."""
    # torch is loaded by those who write; the coordinator only looks which versions exist.
    from safetensors.torch import save_file

    shard: dict[str, torch.Tensor] = {}
    names: list[str] = []

    def close_shard() -> None:
        names.append(f"shard-{len(names)}{WEIGHTS_SUFFIX}")
        save_file(shard, directory / names[-1], metadata={"format": "pt"})
        shard.clear()

    for tensor_name, tensor in tensors:
        row = _stored(tensor, dtype)
        if shard and sum(other.nbytes for other in shard.values()) + row.nbytes > shard_bytes:
            close_shard()
        shard[tensor_name] = row
    close_shard()
    for number, written in enumerate(names, start=1):
        final = name if len(names) == 1 else f"model-{number:05d}-of-{len(names):05d}{WEIGHTS_SUFFIX}"
        (directory / written).rename(directory / final)


def _described(staging: Path, version: int, parent: int | None) -> Manifest:
    """The manifest of what was written, with an index added where the weights are in several files."""
    manifest = describe(staging, version=version, parent=parent)
    if all(entry.file in (WHOLE, ADAPTER) for entry in manifest.tensors) or (staging / INDEX).exists():
        return manifest
    (staging / INDEX).write_text(json.dumps(index_of(manifest.tensors), indent=1), encoding="utf-8")
    return describe(staging, version=version, parent=parent)


def _stored(tensor: "torch.Tensor", dtype: Dtype) -> "torch.Tensor":
    """The tensor as a version holds it. A copy: an iterator may reuse its buffers, and tied weights may not share memory in one file."""
    import torch

    kept = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=kept, copy=True).contiguous()


def _default_cache(root_url: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "oprime" / "weights" / xxhash.xxh3_64_hexdigest(root_url.encode())


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest after everything else is on the disk, and give it its name in one step."""
    for name in manifest.stored:
        _sync(directory / name)
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
