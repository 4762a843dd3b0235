"""The component on disk: built once per user and machine, checked before each use, never part of the repository."""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oprime_verifier.sandbox.types import SandboxFailedError

_HERE = Path(__file__).resolve().parent
_BUILD_S = 600.0
_NATIVE_ONLY = frozenset({"child.py", "forking.py", "lockdown.py"})
_PACKAGES = {"wasmtime": "wasmtime", "componentize_py": "componentize-py"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A component that can be run."""

    code: Path
    """Machine code, for this CPU."""
    component_hash: str
    """SHA-256 of the component. Where it is equal, the same program takes the same fuel."""
    baseline_bytes: int
    """Memory of the interpreter itself."""


def why_missing() -> str | None:
    """Which packages are not installed, for a person; None when the engine can be used."""
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    return f"the wasm engine needs {' and '.join(missing)}: pip install {' '.join(missing)}" if missing else None


def find_or_make() -> Build:
    """The build for the installed packages and this source, making it first where there is none (about half a minute).

    Raises SandboxFailedError.
    """
    if (missing := why_missing()) is not None:
        raise SandboxFailedError(missing)
    sources = _sources()
    folder = _cache_folder() / _key(sources)
    code = folder / f"{_machine()}.cwasm"
    with _locked(folder):
        found = _checked(code)
        if found is None:
            _make(sources, folder, code)
            found = _checked(code)
    if found is None:
        raise SandboxFailedError(f"{folder} changed while the wasm engine was built there; remove it and try again")
    return found


def is_built() -> bool:
    return why_missing() is None and (_cache_folder() / _key(_sources()) / f"{_machine()}.cwasm").exists()


def _cache_folder() -> Path:
    """Private: whoever can write there runs machine code in the judge's name."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "oprime" / "wasm"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.stat()
    except OSError as error:
        raise SandboxFailedError(f"the wasm engine is built in {folder}, which cannot be used ({error}): set XDG_CACHE_HOME") from error
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise SandboxFailedError(f"{folder} must belong to user {os.geteuid()} and be writable for no one else: chmod 700 it")
    return folder


def _sources() -> dict[str, bytes]:
    """What the component is made of, by path inside the staging folder."""
    guest = {path.name: path.read_bytes() for path in (_HERE / "wasm_guest").iterdir() if path.suffix in (".py", ".wit")}
    inside = [path for path in (_HERE / "inside").glob("*.py") if path.name not in _NATIVE_ONLY]
    package = {f"oprime_verifier/sandbox/inside/{path.name}": path.read_bytes() for path in inside}
    return {**guest, **package, "oprime_verifier/__init__.py": b"", "oprime_verifier/sandbox/__init__.py": b""}


def _key(sources: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for package in sorted(_PACKAGES.values()):
        digest.update(f"{package}=={importlib.metadata.version(package)}\n".encode())
    for name in ("wasm_make.py", "wasm_instance.py"):
        digest.update((_HERE / name).read_bytes())
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()[:24]


def _machine() -> str:
    """Machine code uses the instructions of the CPU it was compiled on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _checked(code: Path) -> Build | None:
    """None when it is not there, or not what was written."""
    try:
        facts = json.loads(code.with_suffix(".json").read_text())
        with code.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, ValueError):
        return None
    if digest != facts["code"]:
        return None
    return Build(code=code, component_hash=facts["component"], baseline_bytes=facts["baseline_bytes"])


def _make(sources: dict[str, bytes], folder: Path, code: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    component = folder / "component.wasm"
    with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as name:
        stage = Path(name) / "stage"
        for path, body in sources.items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            (stage / path).write_bytes(body)
        made = Path(name) / "component.wasm"
        if component.exists():
            made.hardlink_to(component)
        _run_maker(stage, made, Path(name) / code.name)
        # The facts come last: without them nothing is trusted.
        for path in (made, Path(name) / code.name, (Path(name) / code.name).with_suffix(".json")):
            path.replace(folder / path.name)


def _run_maker(stage: Path, component: Path, code: Path) -> None:
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(stage), "TMPDIR": str(stage.parent)}
    command = [sys.executable, "-m", "oprime_verifier.sandbox.wasm_make", str(stage), str(component), str(code)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_BUILD_S, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxFailedError(f"the wasm engine could not be built: {error}") from error
    if done.returncode != 0 or not code.exists():
        raise SandboxFailedError(f"the wasm engine could not be built: {done.stderr.decode(errors='replace')[-2000:].strip()}")
