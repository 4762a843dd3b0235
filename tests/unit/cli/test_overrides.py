"""--set key=value."""

from pathlib import Path
from typing import Any

import pytest

from oprime.runtime.errors import SettingsError
from oprime_cli.overrides import apply_override, load_config, parse_value

RUN = """
[run]
name = "one"
steps = 4
[model]
path = "m"
[tasks]
source = "chain"
[coordinator]
groups_per_batch = 8
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("20", 20),
        ("true", True),
        ("bfloat16", "bfloat16"),
        ('"20"', "20"),
        ("[1, 2]", [1, 2]),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("2026-11-22", "2026-11-22"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_is_toml_or_else_a_string(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_overrides_change_settings_and_keep_the_others(config: Path) -> None:
    loaded = load_config(config, ["learner.learning_rate=1e-4", "coordinator.filter.enabled=false", "model.path=a/b=c", "run.steps = 7"])
    assert loaded.learner.learning_rate == 1e-4
    assert loaded.coordinator.filter.enabled is False
    assert loaded.coordinator.groups_per_batch == 8
    assert loaded.model.path == "a/b=c"
    assert loaded.run.steps == 7


def test_an_unknown_setting_is_refused_with_its_name(config: Path) -> None:
    with pytest.raises(SettingsError, match=r"with --set: unknown setting learner\.learnig_rate = 0\.1 \(did you mean learning_rate\?\)"):
        load_config(config, ["learner.learnig_rate=0.1"])


def test_an_unknown_section_is_refused(config: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown section \[lerner\]"):
        load_config(config, ["lerner.learning_rate=0.1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run.steps", "write KEY=VALUE"),
        ("steps=3", "names no section"),
        ("run..steps=3", "not the name of a setting"),
        ("run.steps.x=3", "steps is a single setting"),
        ("=3", "not the name of a setting"),
        ("a.b=1\nc.d=2", "single"),
    ],
)
def test_a_malformed_override_says_what_to_write(text: str, said: str) -> None:
    document: dict[str, Any] = {"run": {"steps": 4}, "a": 1}
    with pytest.raises(SettingsError, match=said):
        apply_override(document, text)
