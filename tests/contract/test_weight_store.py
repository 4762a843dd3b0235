"""What the weight store keeps, on a directory and behind fsspec URLs."""

import json
import multiprocessing
import os
import resource
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import fsspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from oprime.adapters.store_weights import StoreWeights
from oprime.lm.models import load_causal_lm
from oprime.runtime.errors import OprimeError, SettingsError, WeightsRefusedError, WeightVersionMissingError
from tiny_policies import write_policy

Tensors = list[tuple[str, torch.Tensor]]


@dataclass
class Place:
    """Where a store lives, and how a test gets at its files."""

    url: str
    template: Path
    home: Path
    caches: Iterator[int] = field(default_factory=lambda: iter(range(100)))

    def open(self, **options: object) -> StoreWeights:
        """A store as another process sees it: with a cache of its own."""
        return StoreWeights(self.url, cache=self.home / f"cache-{next(self.caches)}", template=self.template, **options)  # pyright: ignore[reportArgumentType]

    def read(self, version: int, name: str) -> bytes:
        files, path = fsspec.url_to_fs(f"{self.url}/v{version:08d}/{name}")
        return files.cat_file(path)

    def write(self, version: int, name: str, data: bytes) -> None:
        with fsspec.open(f"{self.url}/v{version:08d}/{name}", "wb") as file:
            file.write(data)  # pyright: ignore[reportAttributeAccessIssue]

    def remove(self, version: int, name: str) -> None:
        files, path = fsspec.url_to_fs(f"{self.url}/v{version:08d}/{name}")
        files.rm(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    write_policy(directory)
    return directory


@pytest.fixture(params=["directory", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, template: Path) -> Place:
    urls = {"directory": str(tmp_path / "store"), "file": f"file://{tmp_path}/store", "memory": f"memory://{uuid.uuid4().hex}"}
    url = f"{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex}" if request.param == "s3" else urls[request.param]
    return Place(url, template, tmp_path)


def policy(template: Path, *, plus: float = 0.0) -> Tensors:
    """The template's weights, each shifted by `plus`."""
    return [(name, tensor + plus) for name, tensor in load_file(template / "model.safetensors").items()]


def damage(place: Place, name: str, position: int) -> None:
    data = bytearray(place.read(1, name))
    data[position] ^= 0xFF
    place.write(1, name, bytes(data))


def test_a_published_version_comes_back_bit_for_bit(place: Place) -> None:
    tensors = policy(place.template, plus=0.25)
    place.open().publish(1, iter(tensors), parent=0)
    fetched = place.open().fetch(1)
    loaded = load_file(fetched.directory / "model.safetensors")
    assert loaded.keys() == dict(tensors).keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors)
    assert fetched.bytes == sum(tensor.nbytes for _, tensor in tensors)


def test_transformers_can_load_a_version(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template, plus=0.25)), parent=0)
    model = load_causal_lm(place.open().fetch(1).directory)
    assert torch.equal(model.state_dict()["model.norm.weight"], torch.full((64,), 1.25))


def test_versions_are_listed_from_the_moment_their_manifest_exists(place: Place) -> None:
    store = place.open()
    assert (store.versions(), store.latest()) == ([], None)
    for version in (10, 2):
        store.publish(version, iter(policy(place.template)), parent=None)
    place.write(11, "model.safetensors", b"half a version")
    assert (place.open().versions(), place.open().latest()) == ([2, 10], 10)
    with pytest.raises(WeightVersionMissingError, match=r"no weight version 11 .* it holds 2, 10"):
        place.open().fetch(11)


def test_a_half_published_version_can_be_published_again(place: Place) -> None:
    place.write(1, "model.safetensors", b"half a version")
    tensors = policy(place.template)
    place.open().publish(1, iter(tensors), parent=0)
    assert place.open().fetch(1).bytes == sum(tensor.nbytes for _, tensor in tensors)


def test_publishing_an_existing_version_changes_nothing_and_uses_the_tensors_up(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    before = place.read(1, "manifest.json")
    others = iter(policy(place.template, plus=1.0))
    place.open().publish(1, others, parent=0)
    assert place.read(1, "manifest.json") == before
    assert next(others, None) is None


def test_the_manifest_says_what_a_version_holds(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    manifest = json.loads(place.read(1, "manifest.json"))
    norm = next(entry for entry in manifest["tensors"] if entry["name"] == "model.norm.weight")
    assert (manifest["version"], manifest["parent"]) == (1, 0)
    assert (norm["dtype"], norm["shape"], norm["bytes"], norm["file"], len(norm["xxh3"])) == ("float32", [64], 256, "model.safetensors", 16)
    files = {entry["name"]: entry["bytes"] for entry in manifest["files"]}
    assert files["config.json"] == (place.template / "config.json").stat().st_size
    assert {"model.safetensors", "tokenizer.json", "generation_config.json"} <= files.keys()


def test_one_flipped_bit_of_a_tensor_is_refused_by_name(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    damage(place, "model.safetensors", -1)
    with pytest.raises(WeightsRefusedError, match=r"tensor \S+ in model\.safetensors has checksum [0-9a-f]{16}, its manifest says"):
        place.open().fetch(1)


def test_a_damaged_header_is_refused_by_file(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    damage(place, "model.safetensors", 9)
    with pytest.raises(WeightsRefusedError, match=r"model.safetensors"):
        place.open().fetch(1)


def test_a_damaged_config_is_refused_by_file(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    damage(place, "tokenizer.json", 5)
    with pytest.raises(WeightsRefusedError, match=r"file tokenizer.json has checksum"):
        place.open().fetch(1)


@pytest.mark.parametrize("kept", [0, 100])
def test_a_shortened_file_is_refused_with_both_sizes(place: Place, kept: int) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    whole = place.read(1, "model.safetensors")
    place.write(1, "model.safetensors", whole[:kept])
    with pytest.raises(WeightsRefusedError, match=rf"model.safetensors has {kept} bytes, its manifest says {len(whole)}"):
        place.open().fetch(1)


def test_a_missing_file_is_refused_by_name(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    place.remove(1, "model.safetensors")
    with pytest.raises(WeightsRefusedError, match=r"file model.safetensors is missing"):
        place.open().fetch(1)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_an_unreadable_manifest_is_refused(place: Place, text: bytes) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    place.write(1, "manifest.json", text)
    with pytest.raises(WeightsRefusedError, match=r"weight version 1.*manifest.json is damaged"):
        place.open().fetch(1)


def test_a_manifest_cannot_name_files_outside_its_version(place: Place) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    manifest = json.loads(place.read(1, "manifest.json"))
    manifest["files"][0]["name"] = "../../elsewhere"
    place.write(1, "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(WeightsRefusedError, match=r"not a plain file name"):
        place.open().fetch(1)


def test_a_version_of_another_model_is_refused(place: Place, tmp_path: Path) -> None:
    place.open().publish(1, iter(policy(place.template)), parent=0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text((place.template / "config.json").read_text().replace("96", "97"))
    with pytest.raises(WeightsRefusedError, match=r"made for another model"):
        StoreWeights(place.url, cache=tmp_path / "other-cache", template=other).fetch(1)


def test_damage_after_a_fetch_is_noticed_at_the_next(place: Place) -> None:
    store = place.open()
    fetched = store.publish(1, iter(policy(place.template)), parent=0)
    assert store.fetch(1) == fetched
    file = fetched.directory / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(bytes(data))
    if fetched.directory.is_relative_to(Path(place.url)):
        with pytest.raises(WeightsRefusedError, match=r"has checksum"):
            store.fetch(1)
    else:  # a damaged copy is fetched again
        assert load_file(store.fetch(1).directory / "model.safetensors").keys() == dict(policy(place.template)).keys()
        assert (store.fetch(1).directory / "model.safetensors").read_bytes() == place.read(1, "model.safetensors")


def test_large_weights_are_spread_over_files_that_transformers_can_load(place: Place) -> None:
    # 40 x 64 x 4 bytes for each of two embeddings: at most one of them fits into 16 KiB.
    tensors = policy(place.template, plus=0.25)
    place.open(shard_bytes=16_384).publish(1, iter(tensors), parent=0)
    directory = place.open().fetch(1).directory
    shards = sorted(file.name for file in directory.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors)


def test_weights_are_published_in_the_stores_type(place: Place) -> None:
    place.open(dtype="bfloat16").publish(1, iter(policy(place.template)), parent=0)
    loaded = load_file(place.open().fetch(1).directory / "model.safetensors")
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16}


def test_tied_weights_may_share_memory(place: Place) -> None:
    shared = torch.ones(8, 4)
    place.open().publish(1, iter([("one", shared), ("other", shared), ("transposed", shared.T)]), parent=0)
    loaded = load_file(place.open().fetch(1).directory / "model.safetensors")
    assert (loaded["one"].shape, loaded["transposed"].shape) == ((8, 4), (4, 8))


def test_an_iterator_may_reuse_its_buffer(place: Place) -> None:
    def one_buffer() -> Iterator[tuple[str, torch.Tensor]]:
        buffer = torch.empty(4)
        for number in range(3):
            yield f"tensor-{number}", buffer.fill_(number)

    place.open().publish(1, one_buffer(), parent=0)
    loaded = load_file(place.open().fetch(1).directory / "model.safetensors")
    assert [loaded[f"tensor-{number}"][0].item() for number in range(3)] == [0.0, 1.0, 2.0]


def test_version_0_holds_the_initial_weights_byte_for_byte(place: Place) -> None:
    place.open().publish_directory(0, place.template)
    assert place.read(0, "model.safetensors") == (place.template / "model.safetensors").read_bytes()
    fetched = place.open().fetch(0)
    assert fetched.version == 0
    assert (fetched.directory / "tokenizer.json").read_bytes() == (place.template / "tokenizer.json").read_bytes()


def test_a_directory_without_safetensors_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"holds no safetensors files"):
        place.open().publish_directory(0, tmp_path / "empty")


def test_pruning_keeps_the_newest_and_those_that_are_needed(place: Place) -> None:
    store = place.open()
    for version in range(6):
        store.publish(version, iter([("one", torch.ones(1))]), parent=None)
    assert store.prune({1, 99}, 2) == [0, 2, 3]
    assert place.open().versions() == [1, 4, 5]
    with pytest.raises(WeightVersionMissingError):
        store.fetch(2)
    assert store.prune(set(), 0) == [1, 4, 5]
    assert store.latest() is None


def test_a_version_that_cannot_be_written_leaves_nothing_behind(place: Place) -> None:
    store = place.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, hard))
    try:
        with pytest.raises(OprimeError, match=r"weight version 1 cannot be written to .*MiB are free"):
            store.publish(1, iter(policy(place.template)), parent=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.versions() == []
    assert not list(place.home.rglob("*.safetensors"))
    store.publish(1, iter(policy(place.template)), parent=0)
    assert store.versions() == [1]


def test_a_full_disk_is_named_with_what_helps(tmp_path: Path, template: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    store = StoreWeights(str(tmp_path / "store"), template=template)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield "one", torch.ones(1)
        with full.open("wb", buffering=0) as file:
            file.write(b"more")

    with pytest.raises(OprimeError, match=r"the disk is full; \d+ MiB are free there. Free space, lower store.keep_versions"):
        store.publish(1, tensors(), parent=0)
    assert store.versions() == []


def _die_while_writing(url: str, cache: Path, template: Path) -> None:
    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield "one", torch.ones(64, 64)
        yield "two", torch.ones(64, 64)
        os.kill(os.getpid(), signal.SIGKILL)

    StoreWeights(url, cache=cache, template=template, shard_bytes=1).publish(1, tensors(), parent=0)


def test_what_a_killed_writer_left_is_invisible_and_cleared_away(place: Place) -> None:
    if place.url.startswith("memory"):
        pytest.skip("memory is not shared between processes")
    cache = place.home / "writer"
    writer = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(place.url, cache, place.template))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    local = Path(place.url) if "://" not in place.url else cache
    assert list(local.glob(".staging-*/*.safetensors"))
    store = StoreWeights(place.url, cache=cache, template=place.template)
    assert store.versions() == []
    store.publish(2, iter(policy(place.template)), parent=0)
    assert store.versions() == [2]
    assert not list(local.glob(".staging-*"))


def test_a_cache_keeps_only_a_few_versions(tmp_path: Path, template: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    writer = StoreWeights(url, cache=tmp_path / "writer", template=template)
    reader = StoreWeights(url, cache=tmp_path / "reader", template=template)
    for version in range(6):
        writer.publish(version, iter([("one", torch.ones(1))]), parent=None)
        reader.fetch(version)
    assert sorted(entry.name for entry in (tmp_path / "reader").glob("v*")) == ["v00000003", "v00000004", "v00000005"]


def test_a_template_must_be_a_model_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no config.json"):
        StoreWeights(str(tmp_path / "store"), template=tmp_path)


# --- versions that are stored as what changed ---


def drifting(template: Path, version: int) -> Tensors:
    """The template's weights after `version` small steps, each of which changes some elements of some tensors."""
    rows: Tensors = []
    for place, (name, tensor) in enumerate(policy(template)):
        moved = tensor.clone()
        if place % 3:
            moved.view(-1)[version % 5 :: 7] += version * 1e-3
        rows.append((name, moved))
    return rows


def publish(store: StoreWeights, template: Path, *versions: int) -> None:
    for version in versions:
        store.publish(version, iter(drifting(template, version)), parent=version - 1 if version else None)


def is_version(directory: Path, template: Path, version: int, dtype: torch.dtype = torch.float32) -> bool:
    loaded, wanted = load_file(directory / "model.safetensors"), dict(drifting(template, version))
    return loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name].to(dtype)) for name in wanted)


def files_of(place: Place, version: int) -> set[str]:
    files, path = fsspec.url_to_fs(f"{place.url}/v{version:08d}", use_listings_cache=False)
    return {str(name).rpartition("/")[2] for name in files.ls(path, detail=False)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_changes_come_back_bit_for_bit_whatever_a_reader_has(place: Place, dtype: Literal["float32", "bfloat16"]) -> None:
    writer, follower = place.open(full_every=4, dtype=dtype), place.open(dtype=dtype)
    for version in range(7):
        publish(writer, place.template, version)
        fetched = follower.fetch(version)
        assert is_version(fetched.directory, place.template, version, getattr(torch, dtype))
        assert {"config.json", "tokenizer.json"} <= {file.name for file in fetched.directory.iterdir()}
    assert [("delta.bin" in files_of(place, version)) for version in range(7)] == [False, True, True, True, False, True, True]
    assert files_of(place, 6) == {"delta.bin", "manifest.json"}
    assert len(place.read(6, "delta.bin")) < len(place.read(4, "model.safetensors")) / 2
    # One that has nothing yet, and one that has seen no version since 1.
    assert is_version(place.open(dtype=dtype).fetch(6).directory, place.template, 6, getattr(torch, dtype))
    late = place.open(dtype=dtype)
    late.fetch(1)
    assert is_version(late.fetch(3).directory, place.template, 3, getattr(torch, dtype))


def test_transformers_can_load_a_version_that_is_stored_as_changes(place: Place) -> None:
    publish(place.open(full_every=4), place.template, 0, 1, 2)
    model = load_causal_lm(place.open().fetch(2).directory)
    name, tensor = drifting(place.template, 2)[1]
    assert torch.equal(model.state_dict()[name], tensor)


def test_changes_of_weights_in_several_files_come_back(place: Place) -> None:
    publish(place.open(full_every=4, shard_bytes=16_384), place.template, 0, 1)
    directory = place.open().fetch(1).directory
    loaded = {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in drifting(place.template, 1))
    assert AutoModelForCausalLM.from_pretrained(directory).config.vocab_size


def test_the_initial_weights_are_a_base(place: Place) -> None:
    writer = place.open(full_every=4)
    writer.publish_directory(0, place.template)
    publish(writer, place.template, 1)
    # Its file has another header than those that are written here, so the first version may be whole; the next ones are not.
    publish(writer, place.template, 2)
    assert "delta.bin" in files_of(place, 2)
    assert is_version(place.open().fetch(2).directory, place.template, 2)


def test_a_damaged_change_is_refused_until_it_is_mended_or_a_whole_version_comes(place: Place) -> None:
    writer = place.open(full_every=4)
    publish(writer, place.template, 0, 1, 2)
    whole = place.read(2, "delta.bin")
    place.write(2, "delta.bin", whole[:-1] + bytes([whole[-1] ^ 1]))
    reader = place.open()
    with pytest.raises(WeightsRefusedError, match=r"against weight version 1: it has \d+ bytes with checksum \w+, its manifest says"):
        reader.fetch(2)
    assert is_version(reader.fetch(1).directory, place.template, 1)
    # The writer has a sound copy of its own, so what follows is sound, but not for those who need the damaged file.
    publish(writer, place.template, 3, 4)
    with pytest.raises(WeightsRefusedError, match="against weight version 1"):
        reader.fetch(3)
    assert is_version(reader.fetch(4).directory, place.template, 4)
    place.write(2, "delta.bin", whole)
    assert is_version(reader.fetch(3).directory, place.template, 3)


def test_a_change_whose_base_is_gone_is_refused_and_not_taken_for_one_that_was_removed(place: Place) -> None:
    publish(place.open(full_every=4), place.template, 0, 1, 2)
    place.remove(1, "manifest.json")
    with pytest.raises(WeightsRefusedError, match="weight version 2 changes version 1, which is gone") as caught:
        place.open().fetch(2)
    assert not isinstance(caught.value, WeightVersionMissingError)


def test_pruning_keeps_what_kept_versions_are_based_on(place: Place) -> None:
    store = place.open(full_every=4)
    publish(store, place.template, *range(8))
    assert place.open().prune({2}, 1) == [3]
    assert place.open().versions() == [0, 1, 2, 4, 5, 6, 7]
    assert place.open().prune(set(), 2) == [0, 1, 2]
    assert is_version(place.open().fetch(7).directory, place.template, 7)


def test_a_version_that_was_published_anew_after_a_restart_is_not_taken_from_an_old_copy(place: Place) -> None:
    writer, reader = place.open(full_every=4), place.open()
    publish(writer, place.template, 0, 1, 2)
    reader.fetch(2)
    assert place.open().prune({0, 1}, 0) == [2]
    restarted = place.open(full_every=4)
    restarted.publish(2, iter(policy(place.template, plus=0.5)), parent=1)
    assert "delta.bin" in files_of(place, 2)
    loaded = load_file(reader.fetch(2).directory / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in policy(place.template, plus=0.5))


def test_a_writer_without_a_base_publishes_the_whole(place: Place) -> None:
    publish(place.open(full_every=4), place.template, 1)
    place.open(full_every=4).publish(2, iter([("another", torch.ones(3))]), parent=1)
    assert [("delta.bin" in files_of(place, version)) for version in (1, 2)] == [False, False]
    assert torch.equal(load_file(place.open().fetch(2).directory / "model.safetensors")["another"], torch.ones(3))


def test_a_cache_keeps_only_a_few_versions_of_a_writer_too(place: Place) -> None:
    cache = place.home / "writers-cache"
    store = StoreWeights(place.url, cache=cache, template=place.template, full_every=20)
    publish(store, place.template, *range(8))
    assert sorted(entry.name for entry in cache.glob("v*")) == ["v00000005", "v00000006", "v00000007"]


def test_a_manifest_cannot_be_based_on_itself(place: Place) -> None:
    publish(place.open(full_every=4), place.template, 0, 1)
    manifest = json.loads(place.read(1, "manifest.json"))
    manifest["delta"]["base"] = 1
    place.write(1, "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(WeightsRefusedError, match="is based on version 1, which is not older"):
        place.open().fetch(1)


# --- a store that is away ---


def test_a_store_that_does_not_answer_is_told_with_its_address(
    s3_bucket: str, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = type(fsspec.filesystem("s3"))
    clients.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = StoreWeights(f"{s3_bucket}/weights", cache=tmp_path / "cache", template=template)
    clients.clear_instance_cache()
    for call in (store.versions, store.latest, lambda: store.publish(1, iter(policy(template)), parent=0)):
        with pytest.raises(OprimeError, match=r"the weight store s3://.* cannot .*Could not connect to the endpoint .*check store.url"):
            call()
    with pytest.raises(WeightsRefusedError, match=r"weight version 1: .* cannot be read: Could not connect"):
        store.fetch(1)
