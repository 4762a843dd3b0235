"""A run's settings from its TOML file and `--set key=value`."""

import datetime
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import read_toml
from oprime_cli.run_config import RunConfig
from oprime_verifier.config import VerifierSection, VerifierSettings


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check a run's settings. Raises SettingsError with the setting, its value and the rule."""
    document = read_toml(path)
    changes = list(overrides)
    for text in changes:
        apply_override(document, text)
    origin = f"{path} with --set" if changes else str(path)
    return RunConfig.from_document(document, origin=origin)


def service_document(path: Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Settings of a service that runs without a run: of a file, if one is given, with what a run would have named filled in."""
    document = read_toml(path) if path is not None else {}
    for text in overrides:
        apply_override(document, text)
    document["run"] = {"name": "standalone", "steps": 1, **document.get("run", {})}
    return document


def verifier_section(path: Path | None, overrides: Iterable[str] = ()) -> VerifierSection:
    """The [verifier] section alone. Raises SettingsError."""
    document = service_document(path, overrides)
    return VerifierSettings.from_document(document, origin=str(path or "--set")).verifier


def apply_override(document: dict[str, Any], text: str, *, needs_section: bool = True) -> None:
    """Put `key=value` into the document. The value is TOML; what is no TOML value is taken as a string."""
    key, separator, value = text.partition("=")
    if not separator:
        raise SettingsError(f"--set {text}: write KEY=VALUE, for example --set learner.learning_rate=1e-4")
    *tables, leaf = _path(key.strip(), text)
    if needs_section and not tables:
        raise SettingsError(f"--set {text}: {key.strip()!r} names no section; write SECTION.NAME=VALUE, for example run.steps=10")
    table = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {text}: {name} is a single setting, not a group of settings")
    table[leaf] = parse_value(value.strip())


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    # No setting is a date; and a line break must not smuggle in a second setting.
    if len(parsed) != 1 or isinstance(value, datetime.date | datetime.time):
        return text
    return value


def _path(key: str, text: str) -> list[str]:
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--set {text}: {key!r} is not the name of a setting; write SECTION.NAME=VALUE") from error
    path: list[str] = []
    while isinstance(table, dict):
        if len(table) != 1:
            raise SettingsError(f"--set {text}: give one setting at a time")
        name, table = next(iter(table.items()))
        path.append(name)
    return path
