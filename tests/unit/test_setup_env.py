"""deploy/setup_env.sh before it installs anything: which Python and which list of packages it takes, and what it says otherwise."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cut", "dirname", "grep", "rm", "sha256sum", "uname")


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with the usual tools and neither Python nor NVIDIA driver."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def set_up(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(machine / "bash"), str(ROOT / "deploy/setup_env.sh")]
    variables = {"PATH": str(machine), "OPRIME_VENV": str(machine.parent / "venv"), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def python(version: str, *, has_venv: bool = True) -> str:
    venv = f"*ensurepip*) exit {0 if has_venv else 1} ;;"
    return f'case "$2" in {venv} *version_info*) echo {version} ;; *) echo "Python {version}"; exit 3 ;; esac'


def test_without_a_python_the_package_to_install_is_named(machine: Path) -> None:
    result = set_up(machine)
    assert result.returncode == 1
    assert "Python 3.11 or 3.12 is needed; no python3 was found; install one (apt install python3.11 python3.11-venv)" in result.stderr


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_a_python_that_is_too_old_or_too_new_is_named(machine: Path, version: str) -> None:
    script(machine / "python3", python(version))
    result = set_up(machine)
    assert result.returncode == 1
    assert f"Python 3.11 or 3.12 is needed; python3 is {version};" in result.stderr


def test_a_python_that_does_not_run_is_passed_over(machine: Path) -> None:
    script(machine / "python3.11", "exit 127")
    script(machine / "python3.12", python("3.12"))
    assert "Making" in set_up(machine).stdout
    (machine / "python3.12").unlink()
    assert "python3.11 is not runnable;" in set_up(machine).stderr


def test_a_python_without_venv_names_the_package(machine: Path) -> None:
    script(machine / "python3", python("3.12", has_venv=False))
    assert "apt install python3.12-venv" in set_up(machine).stderr


def test_a_named_python_is_used(machine: Path) -> None:
    script(machine / "python3.11", python("3.11"))
    script(machine / "mine", python("3.12"))
    assert "with Python 3.12" in set_up(machine, OPRIME_PYTHON=str(machine / "mine")).stdout


def test_cuda_builds_need_a_driver_that_runs(machine: Path) -> None:
    script(machine / "python3.11", python("3.11"))
    assert "nvidia-smi does not run here" in set_up(machine, OPRIME_GPU="1").stderr
    script(machine / "nvidia-smi", "exit 0")
    assert "Making" in set_up(machine, OPRIME_GPU="1").stdout
    assert "OPRIME_GPU=yes is not known" in set_up(machine, OPRIME_GPU="yes").stderr


def test_other_platforms_are_told_what_to_do_instead(machine: Path) -> None:
    (machine / "uname").unlink()
    script(machine / "uname", '[ "$1" = -s ] && echo Darwin || echo arm64')
    said = set_up(machine).stderr
    assert "this is Darwin on arm64: use an x86-64 machine, or a virtual one" in said
    # They are made of the same packages, so they are no way out.
    assert "docker compose" not in said


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_list_pins_every_package_to_one_version(name: str) -> None:
    lines = (ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[^\s=*]+", line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {"torch", "deepspeed", "transformers", "grpcio", "grpcio-tools", "pytest", "ruff", "hatchling"} <= set(names)


def test_the_cpu_list_brings_no_cuda_packages() -> None:
    lines = (ROOT / "requirements/cpu.lock").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0+cpu" in lines
    assert [line for line in lines if line.startswith(("nvidia-", "cuda-", "torchvision=", "torchaudio="))] == []


def test_both_lists_agree_on_what_services_exchange() -> None:
    def versions(name: str) -> dict[str, str]:
        lines = (ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8").splitlines()
        return dict(line.split("==") for line in lines)

    cpu, gpu = versions("cpu"), versions("gpu")
    for package in ("grpcio", "protobuf", "pydantic", "redis", "safetensors", "transformers", "tokenizers", "deepspeed"):
        assert cpu[package] == gpu[package]
