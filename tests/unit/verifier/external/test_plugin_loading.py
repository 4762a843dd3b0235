"""Plug-ins by module, file and entry point."""

from pathlib import Path
from typing import Any

import pytest

from oprime.core.verification import Verdict, VerificationRequest
from oprime.runtime.errors import SettingsError
from oprime_verifier.external.loading import BrokenVerifier, Plugin, load_plugin

REQUEST = VerificationRequest(kind="mine", response="8", golds=("8",))

SOURCE = '''
"""A verifier of ours."""
from dataclasses import dataclass
from helper_beside_the_plugin import SAME

__version__ = "1.4"

@dataclass
class Settings:
    strict: bool = False

def exact(response, gold):
    """Whether both are alike.

    No more."""
    return SAME(response, gold)

def looks_like_verl(solution_str, ground_truth):
    return exact(solution_str, ground_truth)

class Outer:
    @staticmethod
    def inner(response, gold):
        return exact(response, gold)

class NeedsArguments:
    def __init__(self, path): ...
    def verify_batch(self, requests): ...
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "helper_beside_the_plugin.py").write_text("def SAME(a, b): return a == b\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no licence')\n", encoding="utf-8")
    (tmp_path / "leaving.py").write_text("import sys; sys.exit(4)\n", encoding="utf-8")
    return tmp_path


def load(target: str, **settings: Any) -> Plugin:
    return load_plugin({"name": "mine", "target": target, **settings})


def judged(plugin: Plugin, response: str = "8") -> Verdict:
    try:
        return plugin.verify(VerificationRequest(kind="mine", response=response, golds=("8",))).verdict
    finally:
        plugin.close()


def test_a_file_is_loaded_with_what_lies_beside_it(folder: Path) -> None:
    plugin = load(f"{folder}/rewards.py:exact")
    assert (plugin.name, plugin.version, plugin.description) == ("mine", "1.4", "Whether both are alike.")
    assert judged(plugin) is Verdict.CORRECT
    assert judged(plugin, "9") is Verdict.INCORRECT


def test_a_module_is_loaded_by_name() -> None:
    assert judged(load("operator:eq")) is Verdict.CORRECT


def test_an_attribute_may_be_inside_another(folder: Path) -> None:
    assert judged(load(f"{folder}/rewards.py:Outer.inner")) is Verdict.CORRECT


def test_the_style_may_stand_behind_the_target(folder: Path) -> None:
    assert judged(load(f"{folder}/rewards.py:looks_like_verl@verl")) is Verdict.CORRECT
    assert judged(load(f"{folder}/rewards.py:exact", style="plain")) is Verdict.CORRECT


def test_an_installed_entry_point_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "rewarder-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rewarder\nVersion: 2.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[oprime.verifiers]\nmine = operator:eq\nother = nowhere:fn\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert judged(load("")) is Verdict.CORRECT
    assert judged(load("mine")) is Verdict.CORRECT
    with pytest.raises(SettingsError, match="nowhere"):
        load("other")
    with pytest.raises(SettingsError, match=r"no entry point 'third' .*installed ones are mine, other"):
        load("third")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("no_such_module_anywhere:fn", "ModuleNotFoundError"),
        ("operator:no_such_function", "no_such_function"),
        ("{folder}/nothing.py:fn", "there is no file"),
        ("{folder}/broken.py:fn", "RuntimeError: no licence"),
        ("{folder}/leaving.py:fn", "SystemExit: 4"),
        ("{folder}/rewards.py:__version__", "a str is neither"),
        ("{folder}/rewards.py:NeedsArguments", "name an instance"),
        ("{folder}/rewards.py:exact@object", "has no method verify_batch"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_setting(folder: Path, target: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        load(target.format(folder=folder))
    assert "verifier.plugins.mine" in str(refused.value)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"verifier.plugins.mine: unknown setting styel"):
        load("operator:eq", styel="verl")


async def test_a_broken_plugin_says_why_and_judges_nothing() -> None:
    broken = BrokenVerifier("mine", "no licence")
    assert broken.describe().problem == "no licence"
    outcome = await broken.verify(REQUEST)
    assert (outcome.verdict, outcome.score) == (Verdict.INFRA_ERROR, None)
    assert "no licence" in outcome.reason
