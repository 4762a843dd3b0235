"""The records of an evaluation: one line per sample, appended as soon as it is judged, so that an interrupted evaluation goes on."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, Self

from oprime.core.verification import Outcome, Verdict
from oprime.runtime.errors import OprimeError, UnusableInputError

SAMPLES = "samples.jsonl"
NOT_ASKED = "NOT_ASKED"
"""Verdict of a sample that was never made: its prompt cannot be sampled from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What one grader says of a sample."""

    verdict: str
    score: float | None
    """In [0, 1]; None where it could not be judged."""
    answer: str = ""
    reason: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        return cls(verdict=outcome.verdict.value, score=outcome.score, answer=outcome.answer, reason=outcome.reason)

    @property
    def failed(self) -> bool:
        """Whether judging it failed, and may not fail the next time."""
        return self.verdict == Verdict.INFRA_ERROR

    @property
    def points(self) -> float:
        """The score; 0 where there is none: what nobody could judge is never counted as right."""
        return self.score or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A response to a problem, and its grades."""

    problem: str
    sample: int
    """Counted from 0."""
    seed: int
    response: str
    finish_reason: str
    """`stop`, or `length` for a response that was cut."""
    tokens: int
    weight_version: int | None = None
    """Newest version that sampled it, in a run."""
    grade: Grade
    paper: Grade | None = None
    """By the paper's own rules, where they differ."""
    judges: str = ""
    """Version and settings of who judged it: equal ones judge alike."""

    @property
    def key(self) -> tuple[str, int]:
        return self.problem, self.sample

    @property
    def failed(self) -> bool:
        """Whether it must be judged again."""
        return self.grade.failed or (self.paper is not None and self.paper.failed)


class SampleFile:
    """The samples of one benchmark. A later line for the same sample replaces an earlier one."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier evaluation left. Raises UnusableInputError for another file, OprimeError where it cannot be read."""
        self._path = path
        self._stream: FileIO | None = None
        self._whole = 0
        self.samples: dict[tuple[str, int], Sample] = {one.key: one for one in self._read()}

    def append(self, sample: Sample) -> None:
        """Write a sample. Raises OprimeError if the disk refuses; what was written before stays."""
        line = json.dumps(asdict(sample), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            self._write(line)
        except OSError as error:
            raise OprimeError(
                f"{self._path} cannot be written: {error.strerror or error}. The {len(self.samples)} samples before are kept: "
                "make room, then run the same command again"
            ) from error
        self.samples[sample.key] = sample

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _write(self, line: bytes) -> None:
        self._stream = self._stream or self._opened()
        # Raw files write what fits, and complain only the next time.
        if self._stream.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line that the disk refused does not come again when the file is closed.
        stream = self._path.open("ab", buffering=0)
        if self._path.stat().st_size > self._whole:
            # A last line that was cut in the middle would spoil the next.
            stream.truncate(self._whole)
        return stream

    def _read(self) -> Iterator[Sample]:
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as lines:
                yield from self._parsed(lines)
        except OSError as error:
            raise OprimeError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def _parsed(self, lines: Iterable[bytes]) -> Iterator[Sample]:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield sample_of(json.loads(line.decode("utf-8", "surrogatepass")))
            except (ValueError, KeyError, TypeError) as error:
                raise UnusableInputError(
                    f"{self._path}, line {number} is no sample ({error}): name another --out, or add --fresh"
                ) from error
            self._whole += len(line)


def sample_of(value: dict[str, Any]) -> Sample:
    """From its JSON. Raises ValueError, KeyError or TypeError for anything else."""
    plain = Sample(**{**value, "grade": Grade(**value["grade"])})
    return plain if plain.paper is None else replace(plain, paper=Grade(**value["paper"]))
