"""The folder of an evaluation goes on with what it was begun with, and with nothing else."""

import json
from pathlib import Path

import pytest

from evaluation_files import write_evaluation
from oprime.evaluation.compare import compared
from oprime.evaluation.folder import EvaluationFolder
from oprime.runtime.errors import OprimeError, SettingsError, UnusableInputError

SETTINGS = {"target": {"model": "tiny"}, "seed": 0, "problems_sha256": "a", "decoding": {"stop": ("x",)}}


def test_the_same_settings_go_on_and_others_are_refused_by_name(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    for _ in range(2):
        folder.samples("amc", SETTINGS, fresh=False).close()
    other = {**SETTINGS, "problems_sha256": "b", "seed": 1}
    with pytest.raises(
        SettingsError, match=r"made with other settings \(problems, seed\): name another --out to keep them, or add --fresh"
    ):
        folder.samples("amc", other, fresh=False)
    (tmp_path / "amc" / "samples.jsonl").write_text("junk\n")
    assert folder.samples("amc", other, fresh=True).samples == {}
    assert json.loads((tmp_path / "amc" / "settings.json").read_text())["seed"] == 1


def test_two_targets_never_share_a_folder(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    folder.samples("amc", SETTINGS, fresh=False).close()
    folder.samples("aime2024", SETTINGS, fresh=False).close()
    with pytest.raises(SettingsError, match=r'has results of something else \({"model": "tiny"}\): name another --out'):
        folder.samples("math500", {**SETTINGS, "target": {"model": "large"}}, fresh=False)


def test_results_of_all_benchmarks_stand_together(tmp_path: Path) -> None:
    write_evaluation(tmp_path, [[1.0]], benchmark="amc")
    write_evaluation(tmp_path, [[0.0], [1.0]], benchmark="math500")
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(one["benchmark"], one["problems"]) for one in found["results"]] == [("amc", 1), ("math500", 2)]
    assert [one.scores for one in EvaluationFolder(tmp_path).problems("math500")] == [(0.0,), (1.0,)]


def test_what_is_no_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no results of `oprime eval`"):
        EvaluationFolder(tmp_path).results()
    write_evaluation(tmp_path, [[1.0]], benchmark="amc")
    (tmp_path / "amc" / "problems.jsonl").write_text("[]\n")
    with pytest.raises(UnusableInputError, match=r"problems.jsonl cannot be read"):
        EvaluationFolder(tmp_path).problems("amc")


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OprimeError, match=r"settings.json cannot be written: Not a directory; make room, then run the same command again"):
        EvaluationFolder(tmp_path / "taken").samples("amc", SETTINGS, fresh=False)


def test_only_what_both_have_is_compared(tmp_path: Path) -> None:
    one, other = EvaluationFolder(tmp_path / "one"), EvaluationFolder(tmp_path / "other")
    write_evaluation(one.path, [[0.0, 0.0], [1.0, 0.0]], benchmark="amc")
    write_evaluation(one.path, [[1.0]], benchmark="math500")
    write_evaluation(other.path, [[1.0], [0.0]], benchmark="amc")
    write_evaluation(other.path, [[1.0]], benchmark="math500", problems="others")
    write_evaluation(other.path, [[1.0]], benchmark="gsm8k")
    found = compared(one, other)
    # avg@2 and avg@1 are both the mean score; nothing else is in both.
    assert [(row["benchmark"], row["score"], row["first"], row["second"], row["better"], row["worse"]) for row in found.rows] == [
        ("amc", "avg", 0.25, 0.5, 1, 1)
    ]
    assert found.left_out == {"math500": "they have different problems"}
