"""The git commit of the source tree that runs."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Commit of the source tree that this code runs from; empty outside of one, `+changes` behind it when files differ."""
    here = Path(__file__)
    try:
        # An environment may lie inside a repository that is not ours.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        commit = _git(here.parent, "rev-parse", "HEAD")
        changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changed else commit


def _git(directory: Path, *words: str) -> str:
    answer = subprocess.run(["git", "-C", str(directory), *words], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    return answer.stdout.strip()
