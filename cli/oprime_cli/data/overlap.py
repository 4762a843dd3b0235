"""How much two questions have in common: by words, whatever their spelling, spaces and LaTeX decoration. Pure."""

import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = tuple[str, ...]
Shingles = frozenset[Words]

_WORD = re.compile(r"[a-z]+|\d+(?:[.,]\d+)*|[^\W\d_]|[-+*/^=<>]")
_DECORATION = re.compile(
    r"\\(?:left|right|bigl?|bigr|displaystyle|text(?:bf|it|rm)?|math(?:rm|bf|it|bb|cal)|quad|qquad|operatorname)\b|[{}$]"
)
_SAME = (
    (re.compile(r"\\[dt]frac\b"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times|ast)\b"), " * "),
    (re.compile(r"\\(?:leq?|geq?)\b"), " = "),
)


def words_of(text: str) -> Words:
    """Words, numbers and operators in their order. Letters of languages without spaces stand alone."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    for spelled, same in _SAME:
        plain = spelled.sub(same, plain)
    return tuple(_WORD.findall(_DECORATION.sub(" ", plain)))


def shingles_of(words: Words, length: int) -> Shingles:
    """All runs of `length` words; of a shorter text, the whole."""
    if len(words) <= length:
        return frozenset([words]) if words else frozenset()
    return frozenset(zip(*(words[start:] for start in range(length)), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """The text of a collection that has most in common with another."""

    index: int
    """Its place in the collection."""
    share: float
    """Common shingles as a share of the shorter text; 1 for the same words."""


class Collection:
    """Texts that others are compared with, all at once."""

    def __init__(self, texts: Iterable[str], *, length: int, min_words: int) -> None:
        """`length` is that of a shingle. Of texts below `min_words` only the same words count: short ones are alike by chance."""
        self._length = length
        self._min_words = min_words
        self._same: dict[Words, int] = {}
        self._sizes: list[int] = []
        self._holders: defaultdict[Words, list[int]] = defaultdict(list)
        for index, text in enumerate(texts):
            words = words_of(text)
            if words:
                self._same.setdefault(words, index)
            shingles = shingles_of(words, length) if len(words) >= min_words else frozenset[Words]()
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._holders[shingle].append(index)

    def nearest(self, text: str) -> Overlap | None:
        """The text with the largest share in common, the first of several; None where nothing is."""
        words = words_of(text)
        if words in self._same:
            return Overlap(index=self._same[words], share=1.0)
        if len(words) < self._min_words:
            return None
        shingles = shingles_of(words, self._length)
        common = Counter(index for shingle in shingles for index in self._holders.get(shingle, ()))
        shares = [(number / min(len(shingles), self._sizes[index]), -index) for index, number in common.items()]
        if not shares:
            return None
        share, index = max(shares)
        return Overlap(index=-index, share=share)


BANDS, ROWS_PER_BAND = 20, 6
"""Of a MinHash: texts with a Jaccard similarity of .8 meet in some band with probability .998, those of .5 with .27."""
_Hashes = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What is compared of a text."""

    hashes: _Hashes
    """Of its shingles, sorted."""
    keys: tuple[bytes, ...]
    """Of its bands."""


class NearDuplicates:
    """Finds texts that are nearly one that came before: candidates by MinHash, each confirmed by its Jaccard similarity.

    About 2 KB of memory per text.
    """

    def __init__(self, *, similarity: float, length: int) -> None:
        self._similarity = similarity
        self._length = length
        chance = np.random.Generator(np.random.PCG64(0))
        shape = (BANDS * ROWS_PER_BAND,)
        self._factors = chance.integers(0, 2**63, shape, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._summands = chance.integers(0, 2**63, shape, dtype=np.uint64)
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
        self._seen: list[_Hashes] = []

    def fingerprint(self, text: str) -> Fingerprint:
        hashes = self._hashes(text)
        return Fingerprint(hashes=hashes, keys=self._keys(hashes))

    def alike(self, one: Fingerprint) -> list[int]:
        """The numbers of all texts added so far that it nearly is."""
        candidates = {index for band, key in zip(self._bands, one.keys, strict=True) for index in band.get(key, ())}
        return [index for index in sorted(candidates) if _jaccard_of_hashes(one.hashes, self._seen[index]) >= self._similarity]

    def add(self, one: Fingerprint) -> None:
        """It counts as the next text; the first is 0."""
        for band, key in zip(self._bands, one.keys, strict=True):
            band.setdefault(key, []).append(len(self._seen))
        self._seen.append(one.hashes)

    def _hashes(self, text: str) -> _Hashes:
        """Of its shingles, each once. The same on every machine."""
        spelled = {" ".join(shingle) for shingle in shingles_of(words_of(text), self._length)}
        return np.unique(np.fromiter((zlib.crc32(one.encode()) for one in spelled or {""}), dtype=np.uint32))

    def _keys(self, hashes: _Hashes) -> tuple[bytes, ...]:
        mixed = (hashes.astype(np.uint64)[:, None] * self._factors + self._summands) >> np.uint64(32)
        least = mixed.min(axis=0).astype(np.uint32)
        return tuple(least[start : start + ROWS_PER_BAND].tobytes() for start in range(0, BANDS * ROWS_PER_BAND, ROWS_PER_BAND))


def _jaccard_of_hashes(one: _Hashes, other: _Hashes) -> float:
    common = np.intersect1d(one, other, assume_unique=True).size
    return common / (one.size + other.size - common)
