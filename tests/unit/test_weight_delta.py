"""What changed between two versions: exact to the bit for every type of tensor, and small where little changed."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from oprime.adapters import weight_delta
from oprime.adapters.weight_delta import DELTA, apply_delta, delta_hash, write_delta
from oprime.adapters.weight_manifest import DeltaEntry, TensorEntry, tensor_hash
from oprime.runtime.errors import WeightsRefusedError

Tensors = dict[str, torch.Tensor]


def folder_of(place: Path, tensors: Tensors) -> tuple[Path, list[TensorEntry]]:
    place.mkdir()
    save_file(tensors, place / "model.safetensors")
    return place, [
        TensorEntry(
            name=name,
            dtype=str(tensor.dtype),
            shape=tuple(tensor.shape),
            bytes=tensor.nbytes,
            xxh3=tensor_hash(tensor),
            file="model.safetensors",
        )
        for name, tensor in tensors.items()
    ]


def changed_by_delta(place: Path, old: Tensors, new: Tensors) -> tuple[Tensors, int]:
    """`old`, changed by the delta of the two, and the delta's bytes."""
    base, entries = folder_of(place / "old", old)
    target, _ = folder_of(place / "new", new)
    file = place / DELTA
    write_delta(file, entries, base=base, new=target)
    apply_delta(file, entry_of(file), entries, base)
    return load_file(base / "model.safetensors"), file.stat().st_size


def entry_of(file: Path) -> DeltaEntry:
    return DeltaEntry(base=0, file=DELTA, bytes=file.stat().st_size, xxh3=delta_hash(file))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def random_bits(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """Any bits, infinities and all kinds of NaN among them; of a bool 0 and 1 only."""
    width = torch.empty(0, dtype=dtype).element_size()
    most = 2 if dtype == torch.bool else 256
    row = torch.randint(0, most, (count * width,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return row.view(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int8, torch.bool])
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
def test_every_bit_of_every_type_comes_back(dtype: torch.dtype, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_delta, "BLOCK", 100)  # 1,001 elements are eleven blocks, the last of one
    old = {"a": random_bits(dtype, 1001, 1), "one": random_bits(dtype, 1, 2).reshape(()), "none": torch.empty(0, 4, dtype=dtype)}
    is_changed = torch.rand(1001, generator=torch.Generator().manual_seed(3)) < share
    new = {
        "a": torch.where(is_changed, random_bits(dtype, 1001, 4), old["a"]),
        "one": random_bits(dtype, 1, 5).reshape(()),
        "none": old["none"],
    }
    found, _ = changed_by_delta(tmp_path, old, new)
    assert {name: bits(tensor) for name, tensor in found.items()} == {name: bits(tensor) for name, tensor in new.items()}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)), min_size=1, max_size=60))
def test_any_two_rows_of_bfloat16_differ_by_what_their_delta_says(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]]
) -> None:
    old, new = (torch.tensor(row, dtype=torch.int32).to(torch.int16).view(torch.bfloat16) for row in zip(*pairs, strict=True))
    found, _ = changed_by_delta(tmp_path_factory.mktemp("delta"), {"a": old}, {"a": new})
    assert bits(found["a"]) == bits(new)


def test_few_small_changes_make_a_small_file(tmp_path: Path) -> None:
    # 3 of 100 elements by one unit in the last place: about a byte for the gap, and a bit or so for the direction.
    old = torch.randn(300_000, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    new = old.clone().view(torch.int16)
    new[::33] += 1
    found, size = changed_by_delta(tmp_path, {"a": old}, {"a": new.view(torch.bfloat16)})
    assert bits(found["a"]) == bits(new)
    assert size < 0.02 * old.nbytes


def test_changes_of_all_elements_take_no_more_than_the_elements(tmp_path: Path) -> None:
    old, new = random_bits(torch.float32, 50_000, 1), random_bits(torch.float32, 50_000, 2)
    _, size = changed_by_delta(tmp_path, {"a": old}, {"a": new})
    assert size < old.nbytes + 100


def test_a_delta_that_was_damaged_is_refused_with_both_checksums(tmp_path: Path) -> None:
    base, entries = folder_of(tmp_path / "old", {"a": torch.zeros(100)})
    target, _ = folder_of(tmp_path / "new", {"a": torch.arange(100.0)})
    file = tmp_path / DELTA
    write_delta(file, entries, base=base, new=target)
    entry, whole = entry_of(file), file.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        with pytest.raises(
            WeightsRefusedError, match=rf"it has {len(damaged)} bytes with checksum \w+, its manifest says {len(whole)} bytes"
        ):
            apply_delta(file, entry, entries, base)
    assert torch.equal(load_file(base / "model.safetensors")["a"], torch.zeros(100))


@pytest.mark.parametrize("content", [b"", b"something else", b"OPRIMED1" + b"\xff" * 20, b"OPRIMED1" + bytes(12) + b"\x01"])
def test_a_file_that_is_no_delta_is_refused(content: bytes, tmp_path: Path) -> None:
    base, entries = folder_of(tmp_path / "old", {"a": torch.zeros(100)})
    file = tmp_path / DELTA
    file.write_bytes(content)
    with pytest.raises(WeightsRefusedError, match="it cannot be read"):
        apply_delta(file, entry_of(file), entries, base)
