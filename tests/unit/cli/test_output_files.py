"""Commands that read one file and write another destroy neither by a slip of the hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oprime_cli.main import main
from oprime_cli.output_files import check_outputs

CONTENT = '{"id": 1, "prompt": "p", "response": "a"}\n'
COMMANDS = ("score", "best-of-n", "verify")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text(CONTENT, encoding="utf-8")
    (tmp_path / "soft").symlink_to(file)
    os.link(file, tmp_path / "hard")
    return file


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["rows.jsonl", "../{}/rows.jsonl", "soft", "hard"])
@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_an_output_that_is_the_input_is_refused_and_nothing_is_touched(
    command: str, out: str, fresh: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(source.parent)
    assert main([command, str(source), "--out", str(source.parent / out.format(source.parent.name)), *fresh]) == 2
    assert "--out and FILE are the same file" in capsys.readouterr().err
    assert source.read_text(encoding="utf-8") == CONTENT
    assert names(source.parent) == before


@pytest.mark.parametrize(("out", "page", "says"), [("out", "hard", "--html and FILE are"), ("new", "new", "--out and --html are")])
def test_a_page_is_another_file_than_both(out: str, page: str, says: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(source.parent)
    assert main(["score", str(source), "--out", str(source.parent / out), "--html", str(source.parent / page), "--fresh"]) == 2
    assert f"{says} the same file" in capsys.readouterr().err
    assert source.read_text(encoding="utf-8") == CONTENT
    assert names(source.parent) == before


@pytest.mark.parametrize("words", [*([command, "--out", "."] for command in COMMANDS), ["score", "--out", "new", "--html", "."]])
def test_a_folder_is_no_output(words: list[str], source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(source.parent)
    before = names(source.parent)
    assert main([*words, str(source), "--fresh"]) == 2
    assert f"{words[-2]} . is a folder: name a file" in capsys.readouterr().err
    assert names(source.parent) == before


def test_a_key_is_no_output_either(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = source.with_name("key")
    key.write_text("secret", encoding="utf-8")
    assert main(["score", str(source), "--out", str(key), "--key-file", str(key), "--fresh"]) == 2
    assert "--out and --key-file are the same file" in capsys.readouterr().err
    assert key.read_text(encoding="utf-8") == "secret"


def test_stored_rollouts_are_no_output_of_judging_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = tmp_path / "samples/step-000001.jsonl"
    samples.parent.mkdir()
    samples.write_text("{}\n", encoding="utf-8")
    assert main(["verify", "--again", str(tmp_path), "--out", str(samples)]) == 2
    assert "--out and samples/step-000001.jsonl are the same file" in capsys.readouterr().err
    assert samples.read_text(encoding="utf-8") == "{}\n"


def test_a_pipe_and_files_that_are_not_there_yet_are_no_clash(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_outputs({"FILE": pipe}, {"--out": pipe, "--html": tmp_path / "new"})
    check_outputs({"FILE": tmp_path / "absent"}, {"--out": tmp_path / "new", "--html": None})


def test_standard_input_that_comes_from_the_output_is_refused(source: Path) -> None:
    asks = (
        "import sys, pathlib; from oprime_cli.output_files import STDIN, check_outputs; "
        "check_outputs({'FILE': STDIN}, {'--out': pathlib.Path(sys.argv[1])})"
    )
    with source.open("rb") as stdin:
        result = subprocess.run([sys.executable, "-c", asks, str(source)], stdin=stdin, capture_output=True, text=True, check=False)
    assert "--out and FILE are the same file" in result.stderr
