"""The scripts that complete `oprime`, in the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

from oprime_cli.commands.completion import script
from oprime_cli.main import COMMANDS, HIDDEN_COMMANDS

pytest.importorskip("shtab", reason="the package shtab is not installed")
BASH, ZSH = shutil.which("bash"), shutil.which("zsh")

# What bash does when somebody presses Tab behind the words.
ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
"$(complete -p oprime | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "oprime.bash"
    path.write_text(script("bash"), encoding="utf-8")
    return path


def completed(bash_script: Path, *words: str, folder: Path) -> set[str]:
    assert BASH is not None
    answer = subprocess.run(
        [BASH, "--norc", "-c", ASK, "ask", str(bash_script), *words], capture_output=True, text=True, check=True, cwd=folder
    )
    assert answer.stderr == ""
    return {line.strip() for line in answer.stdout.splitlines() if line.strip()}


@pytest.mark.skipif(BASH is None, reason="no bash on PATH")
def test_bash_completes_commands_options_choices_and_files(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").touch()
    (tmp_path / "my-run").mkdir()
    assert completed(bash_script, "oprime", "", folder=tmp_path) == set(COMMANDS)
    assert not set(HIDDEN_COMMANDS) & set(COMMANDS)
    assert completed(bash_script, "oprime", "re", folder=tmp_path) == {"resume", "report", "redis-acl"}
    assert completed(bash_script, "oprime", "serve", "p", folder=tmp_path) == {"prm"}
    assert {"--replicas", "--reference"} <= completed(bash_script, "oprime", "serve", "prm", "--re", folder=tmp_path)
    assert completed(bash_script, "oprime", "serve", "prm", "--device", "", folder=tmp_path) == {"auto", "cpu", "cuda"}
    assert completed(bash_script, "oprime", "train", "my", folder=tmp_path) == {"my.toml", "my-run"}
    assert completed(bash_script, "oprime", "resume", "my", folder=tmp_path) == {"my-run"}


@pytest.mark.skipif(ZSH is None, reason="no zsh on PATH")
def test_zsh_takes_its_script(tmp_path: Path) -> None:
    assert ZSH is not None
    path = tmp_path / "_oprime"
    path.write_text(script("zsh"), encoding="utf-8")
    subprocess.run([ZSH, "-n", str(path)], check=True)
    assert path.read_text(encoding="utf-8").startswith("#compdef oprime")
