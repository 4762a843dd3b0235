"""The command itself: quick help, no heavy imports, clear errors, exit codes."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oprime.runtime.errors import OprimeError
from oprime_cli.files import write_toml
from oprime_cli.main import COMMANDS, build_parser, main
from oprime_cli.run_config import RunConfig
from oprime_cli.running.run_folder import to_document

HEAVY = ("torch", "transformers", "vllm", "deepspeed", "grpc", "pydantic", "rich", "numpy")


def imported_by(*words: str) -> str:
    code = (
        "import sys\nfrom oprime_cli.main import command\n"
        f"sys.argv[1:] = {list(words)!r}\ntry:\n    command()\nexcept SystemExit:\n    pass\n"
        f"print('imported', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    return (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.rpartition("imported ")[2].strip()
    )


def test_help_of_the_program_imports_nothing_heavy() -> None:
    assert imported_by("--help") == "[]"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_imports_no_tensor_library(command: str) -> None:
    heavy = imported_by(command, "--help")
    assert not re.search("torch|transformers|vllm|deepspeed", heavy)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    _, separator, example = capsys.readouterr().out.partition("example:\n")
    assert separator
    assert example.strip().startswith(f"oprime {command}")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_listed_with_what_it_does(command: str) -> None:
    listed = " ".join(build_parser(["--help"]).format_help().split())
    assert f"{command} {COMMANDS[command][1]}" in listed


def test_an_unknown_command_is_a_usage_error_that_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "trian" in printed
    assert "did you mean train?" in printed
    assert "dead-letters" in printed


def test_a_wrong_setting_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[rnu]\nname = 'x'\n")
    assert main(["train", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"oprime: {path}: unknown section [rnu]")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_missing_run_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ledger", "nowhere"]) == 2
    assert "no run nowhere" in capsys.readouterr().err


def test_the_debug_variable_gives_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPRIME_DEBUG", "1")
    with pytest.raises(OprimeError, match="no settings file"):
        main(["train", str(tmp_path / "none.toml")])


def test_version_names_the_packages_that_results_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^oprime \d", printed, re.MULTILINE)
    assert re.search(r"^grpcio \d", printed, re.MULTILINE)


def test_the_version_is_told_by_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"oprime \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("gpus", ["8", "8:", "0:80", "eight:80", "8:80GiB"])
def test_gpus_of_another_machine_are_a_number_and_a_size(gpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "x.toml", "--dry-run", "--gpus", gpus])
    assert f"{gpus!r} is no N:GIB" in capsys.readouterr().err


def test_a_run_is_not_planned_for_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "x.toml", "--gpus", "8:80"]) == 2
    assert "add --dry-run" in capsys.readouterr().err


def test_a_plan_for_eight_gpus_has_their_places_where_there_are_none(
    make_config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "one.toml"
    write_toml(path, to_document(make_config("generator.tensor_parallel=4", "prm.ranks=2", "learner.ranks=2")))
    assert main(["train", str(path), "--dry-run", "--gpus", "8:80"]) == 0
    assert "GPU 4, 5" in capsys.readouterr().out
