"""The file of samples: what is written is there again, a cut line is not, and a full disk loses nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from oprime.evaluation.samples import Grade, Sample, SampleFile
from oprime.runtime.errors import OprimeError, UnusableInputError


def sample(problem: str = "p", number: int = 0, verdict: str = "CORRECT", score: float | None = 1.0) -> Sample:
    grade = Grade(verdict=verdict, score=score, answer="4")
    return Sample(problem=problem, sample=number, seed=1, response="é \ud800 4", finish_reason="stop", tokens=3, grade=grade)


def test_samples_are_there_again_and_the_last_of_each_counts(tmp_path: Path) -> None:
    path = tmp_path / "math" / "samples.jsonl"
    file = SampleFile(path)
    graded = replace(sample(), paper=Grade(verdict="INCORRECT", score=0.0), weight_version=7)
    for one in (sample(verdict="INFRA_ERROR", score=None), sample(number=1), graded):
        file.append(one)
    file.close()
    assert SampleFile(path).samples == {("p", 0): graded, ("p", 1): sample(number=1)}


def test_a_line_that_was_cut_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    file = SampleFile(path)
    file.append(sample())
    file.append(sample(number=1))
    file.close()
    path.write_bytes(path.read_bytes()[:-9])
    again = SampleFile(path)
    assert list(again.samples) == [("p", 0)]
    again.append(sample(number=2))
    again.close()
    assert list(SampleFile(path).samples) == [("p", 0), ("p", 2)]


def test_a_full_disk_says_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    file = SampleFile(path)
    path.symlink_to("/dev/full")
    with pytest.raises(OprimeError, match=r"samples.jsonl cannot be written: No space left on device. The 0 samples before are kept"):
        file.append(sample())
    assert file.samples == {}
    file.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"id": 3}\n')
    with pytest.raises(UnusableInputError, match="line 1 is no sample"):
        SampleFile(path)


def test_a_verdict_without_a_score_has_no_points_and_a_failure_is_no_verdict() -> None:
    assert (Grade(verdict="UNDECIDED", score=None).points, Grade(verdict="UNDECIDED", score=None).failed) == (0.0, False)
    assert sample(verdict="INFRA_ERROR", score=None).failed
    assert replace(sample(), paper=Grade(verdict="INFRA_ERROR", score=None)).failed
