"""What changed from one weight version to the next, as one file: for each block of elements that differs, which of them and by how much.

Elements are compared bit by bit, as whole numbers, so that a version that is put together again has exactly the bits that were
published. With a small learning rate few elements change, and by little: then a block is the gaps between those that do and their
differences, each taken apart into bytes of equal weight, most of which are 0 and compress well. A block where most elements change has
the differences of all.

    file     MAGIC, then blocks until its end
    block    tensor (its place in the manifest), place of the block in the tensor, bytes that follow
             1 if sparse, elements that changed; the planes of the gaps, if sparse; the planes of the differences
    plane    1 if compressed, its bytes as stored; these
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from oprime.adapters.weight_manifest import DeltaEntry, TensorEntry
from oprime.runtime.errors import WeightsRefusedError

DELTA = "delta.bin"
BLOCK = 2**20
"""Elements."""

_MAGIC = b"OPRIMED1"
_BLOCK_HEAD = struct.Struct("<III")
_CHANGES_HEAD = struct.Struct("<BI")
_PLANE_HEAD = struct.Struct("<BI")
_SAMPLE = 2**14
_WORTH = 0.9
_WIDTHS = (1, 2, 4, 8)

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


def write_delta(file: Path, tensors: Sequence[TensorEntry], *, base: Path, new: Path) -> None:
    """Write what turns the shards in `base` into those in `new`; both hold `tensors`, in files of the same names."""
    before, after = _Shards(base, tensors), _Shards(new, tensors)
    with file.open("wb") as out:
        out.write(_MAGIC)
        for index in range(len(tensors)):
            for place, (old, now) in enumerate(zip(_blocks(before.bits(index)), _blocks(after.bits(index)), strict=True)):
                content = _encoded(old, now)
                if content:
                    out.write(_BLOCK_HEAD.pack(index, place, len(content)))
                    out.write(content)


def apply_delta(file: Path, entry: DeltaEntry, tensors: Sequence[TensorEntry], directory: Path) -> None:
    """Change the shards in `directory`, which hold the base, into the version; whether that is the right one is for `verify`.

    Raises WeightsRefusedError if the file is not as `entry` says.
    """
    where = f"{file} against weight version {entry.base}"
    size, found = file.stat().st_size, delta_hash(file)
    if (size, found) != (entry.bytes, entry.xxh3):
        raise WeightsRefusedError(
            f"{where}: it has {size} bytes with checksum {found}, its manifest says {entry.bytes} bytes with {entry.xxh3}"
        )
    shards = _Shards(directory, tensors, writable=True)
    try:
        for index, place, content in _contents(memoryview(file.read_bytes())):
            block = shards.bits(index)[place * BLOCK : (place + 1) * BLOCK]
            _decode_into(block, content)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise WeightsRefusedError(f"{where}: it cannot be read: {error}") from error
    shards.flush()


def delta_hash(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


class _Shards:
    """The tensors of a directory, each as one row of whole numbers of its element's size."""

    def __init__(self, directory: Path, tensors: Sequence[TensorEntry], *, writable: bool = False) -> None:
        self._tensors = tensors
        names = {entry.file for entry in tensors}
        self._maps = {name: np.memmap(directory / name, dtype=np.uint8, mode="r+" if writable else "r") for name in names}
        self._heads = {name: _header(shard) for name, shard in self._maps.items()}

    def bits(self, index: int) -> Bits:
        entry = self._tensors[index]
        start, header = self._heads[entry.file]
        begin, end = header[entry.name]["data_offsets"]
        width = (end - begin) // max(1, math.prod(entry.shape))
        return self._maps[entry.file][start + begin : start + end].view(f"<u{width if width in _WIDTHS else 1}")

    def flush(self) -> None:
        for shard in self._maps.values():
            shard.flush()


def _header(shard: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and where each of them is."""
    length = int.from_bytes(shard[:8].tobytes(), "little")
    return 8 + length, json.loads(shard[8 : 8 + length].tobytes())


def _blocks(bits: Bits) -> Iterator[Bits]:
    for start in range(0, len(bits), BLOCK):
        yield bits[start : start + BLOCK]


def _contents(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it does not begin as a delta does")
    position = len(_MAGIC)
    while position < len(data):
        index, place, size = _BLOCK_HEAD.unpack_from(data, position)
        position += _BLOCK_HEAD.size
        yield index, place, data[position : position + size]
        position += size


def _encoded(old: Bits, now: Bits) -> bytes:
    """Empty where nothing has changed."""
    changed = np.flatnonzero(old != now)
    if not len(changed):
        return b""
    is_sparse = len(changed) < len(now) // 2
    parts = [_CHANGES_HEAD.pack(is_sparse, len(changed))]
    if is_sparse:
        parts += _planes(np.diff(changed, prepend=-1).astype(np.uint32) - 1)
        old, now = old[changed], now[changed]
    parts += _planes(_folded(now - old))
    return b"".join(parts)


def _decode_into(block: Bits, content: memoryview) -> None:
    is_sparse, count = _CHANGES_HEAD.unpack_from(content)
    position = _CHANGES_HEAD.size
    if not is_sparse:
        block += _unfolded(_joined(content, position, len(block), block.dtype)[0])
        return
    gaps, position = _joined(content, position, count, np.dtype("<u4"))
    differences, _ = _joined(content, position, count, block.dtype)
    block[np.cumsum(gaps.astype(np.int64) + 1) - 1] += _unfolded(differences)


def _folded(differences: Bits) -> Bits:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ...: what is small in either direction has small bytes only."""
    signed = differences.view(f"<i{differences.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * differences.itemsize - 1))).view(differences.dtype)


def _unfolded(folded: Bits) -> Bits:
    minus_1_or_0 = np.negative((folded & 1).view(f"<i{folded.itemsize}")).view(folded.dtype)
    return np.bitwise_xor(folded >> 1, minus_1_or_0)


def _planes(values: Bits) -> Iterator[bytes]:
    """The first bytes of all values, then all second ones, ..."""
    for plane in np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.itemsize).T:
        raw = plane.tobytes()
        middle = len(raw) // 2
        sample = raw[middle : middle + _SAMPLE]
        is_worth_it = len(zlib.compress(sample, 1)) < _WORTH * len(sample)
        stored = zlib.compress(raw, 1) if is_worth_it else raw
        yield _PLANE_HEAD.pack(is_worth_it, len(stored))
        yield stored


def _joined(content: memoryview, position: int, count: int, dtype: np.dtype[Any]) -> tuple[Bits, int]:
    """`count` values from their planes, and where what follows begins."""
    values = np.empty((count, dtype.itemsize), np.uint8)
    for byte in range(dtype.itemsize):
        is_compressed, size = _PLANE_HEAD.unpack_from(content, position)
        position += _PLANE_HEAD.size
        stored = content[position : position + size]
        values[:, byte] = np.frombuffer(zlib.decompress(stored) if is_compressed else stored, np.uint8)
        position += size
    return values.view(dtype)[:, 0], position
