"""An environment for TRL: a folder that git ignores, with the pinned packages of peers.requirements.txt over this environment's own."""

import hashlib
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("peers.requirements.txt")
FOLDER = Path("runs/bench-peers/venv")
STAMP = ".oprime-peers"
ABOVE = "above.pth"
INSTALL_WITHIN_S = 600.0


class PeerError(Exception):
    """TRL cannot be had or run here; the text says why and what to do."""


def peer_python(folder: Path = FOLDER, requirements: Path = REQUIREMENTS) -> Path:
    """The environment's interpreter; makes the environment where it is missing or its list has changed. Raises PeerError."""
    python = folder.absolute() / "bin" / "python"
    below = sysconfig.get_path("purelib")
    stamp = hashlib.sha256(f"{requirements.read_text(encoding='utf-8')}\n{below}\n{sys.version}".encode()).hexdigest()
    mark = folder / STAMP
    if mark.is_file() and mark.read_text(encoding="utf-8") == stamp and python.exists():
        return python
    venv.create(folder, clear=True, with_pip=False, symlinks=True)
    # torch, transformers and oprime are those of this environment, so both sides of a comparison run on the same.
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / ABOVE).write_text(f"import site; site.addsitedir({below!r})\n", encoding="utf-8")
    install(python, requirements)
    mark.write_text(stamp, encoding="utf-8")
    return python


def install(python: Path, requirements: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "-q", "--no-deps"]
    try:
        done = subprocess.run(
            [*command, "--retries", "1", "-r", str(requirements)], capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(
            f"installing {requirements.name} took longer than {INSTALL_WITHIN_S:.0f} s: try again with a faster network"
        ) from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise PeerError(
            f"{requirements.name} cannot be installed, so there is nothing to compare with: {(reasons or ['pip gave no reason'])[-1]}\n"
            "It needs a package index once: check the network and pip's configuration, then repeat"
        )
