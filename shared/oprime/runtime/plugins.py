"""Imports what a person's settings name. Nothing that is not named there is ever imported."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_attribute(target: str) -> tuple[Any, ModuleType]:
    """What `module:attribute` or `path/to/file.py:attribute` names, and its module. Raises what the import raises."""
    place, _, attribute = target.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part)
    return found, module


def _module_of_file(path: Path) -> ModuleType:
    """Import a file under a name of its own; modules beside it can be imported too, after all installed ones."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"oprime_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look modules up by name
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
