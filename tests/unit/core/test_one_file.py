"""What holds for every file that is a choice of a setting; and a new one is one file, which nothing else names."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from guide import DOCS, example, one_more_file, run_with_files
from oprime.core import estimators, policy_losses
from oprime.core.one_file import Choice, Folder, Formula, OwnSetting, named_settings, own_settings, users_of
from oprime.runtime.settings import ALGORITHM_FILES, AlgorithmSection, CommonAlgorithmSection, Section
from oprime_cli.algorithm_docs import FOLDERS, table_of
from oprime_prm.config import PrmSection

DEMO = DOCS.parent / "deploy/config/demo.toml"
SECTIONS: dict[str, type[Section]] = {name: PrmSection if name == "prm_losses" else AlgorithmSection for name in FOLDERS}
FILES = [(folder, name) for folder, files in FOLDERS.items() for name in files.names()]


def functions_of(choice: Choice) -> list[Callable[..., Any]]:
    values = [getattr(choice, one.name) for one in fields(choice)]
    return [value for value in values if callable(value)]


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_a_file_says_what_it_is_where_it_stands_and_what_it_computes(folder: str, name: str) -> None:
    choice = FOLDERS[folder].named(name)
    assert choice.about
    assert choice.source
    assert choice.formulas
    known = set(SECTIONS[folder].model_fields)
    own = {setting.name for setting in choice.settings}
    for formula in choice.formulas:
        assert {*formula.symbols.values()} <= known
        assert {*formula.when, *formula.unless} <= own
        assert all(re.search(rf"\b{symbol}\b", formula.text) for symbol in formula.symbols)
    # Every setting of its own is explained by a formula.
    assert own <= {setting for one in choice.formulas for setting in (*one.symbols.values(), *one.when, *one.unless)}


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_a_file_reads_all_its_own_settings_and_its_functions_get_what_they_name(folder: str, name: str) -> None:
    choice = FOLDERS[folder].named(name)
    named = {setting for function in functions_of(choice) for setting in named_settings(function)}
    assert {setting.name for setting in choice.settings} <= named
    for function in functions_of(choice.with_settings(dict(SECTIONS[folder]()))):
        keyword_only = [one for one in signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
        assert [one.name for one in keyword_only if one.default is one.empty] == []


def shown(left: float, /, *, loo: str, other: int = 3) -> str:
    return f"{left} {loo} {other}"


def test_a_function_gets_the_settings_of_its_keyword_only_parameters() -> None:
    own = OwnSetting(name="loo", default="paper", meaning="x", choices=("paper", "released"))
    choice = Choice(about="a", source="b", formulas=(Formula(text="c"),), settings=(own,), contradictions=shown)  # pyright: ignore
    assert choice.with_settings({}).contradictions(1.0) == "1.0 paper 3"
    assert choice.with_settings({"loo": "released", "other": 4, "left": 7}).contradictions(2.0) == "2.0 released 4"


def test_own_settings_are_settings_of_the_section() -> None:
    declared = own_settings(ALGORITHM_FILES.values())
    assert {"loo", "trace_decay", "clip_low", "clip_high", "dual_clip", "importance_cap", "band_low", "band_high"} <= declared.keys()
    for name, setting in declared.items():
        assert AlgorithmSection.model_fields[name].default == setting.default
        assert name not in CommonAlgorithmSection.model_fields
    assert {"cispo", "clip"} <= set(users_of("clip_low", policy_losses))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"estimator": "grpo", "loo": "released"},
            'algorithm.loo (released) does nothing with algorithm.estimator = "grpo": it is for rloo only; set algorithm.loo=paper',
        ),
        (
            {"correction": "none", "importance_cap": 3},
            'algorithm.importance_cap (3) does nothing with algorithm.correction = "none": it is for geometric_band and sequence and '
            "token only; set algorithm.importance_cap=2",
        ),
        ({"band_low": 0.4}, 'algorithm.band_low (0.4) does nothing with algorithm.correction = "token": it is for band only'),
        ({"policy_loss": "cispo", "dual_clip": 3}, 'algorithm.dual_clip (3) does nothing with algorithm.policy_loss = "cispo"'),
    ],
)
def test_a_setting_of_files_that_are_not_chosen_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        AlgorithmSection.model_validate(settings)


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("clip_low", 0, "greater than 0"),
        ("clip_low", 1.1, "less than or equal to 1"),
        ("importance_cap", 0.9, "greater than or equal to 1"),
    ],
)
def test_an_own_setting_has_bounds(setting: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}\n.*{rule}"):
        AlgorithmSection.model_validate({setting: value})


@pytest.mark.parametrize(
    ("section", "setting", "said"),
    [
        (AlgorithmSection, "estimator", "there is no estimator 'gae': choose one of .*grpo, .*rloo"),
        (AlgorithmSection, "policy_loss", "there is no policy loss 'gae': choose one of .*cispo, .*clip"),
        (AlgorithmSection, "correction", "there is no correction 'gae': choose one of .*band, .*token"),
        (PrmSection, "loss", "there is no PRM loss 'gae': choose one of .*ce, .*dpo"),
    ],
)
def test_a_name_that_no_file_has_is_refused_with_all_that_there_are(section: type[Section], setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        section.model_validate({setting: "gae"})


def test_a_file_that_does_not_say_what_it_is_is_named(tmp_path: Path) -> None:
    with (
        one_more_file(estimators, tmp_path, "silent", "ESTIMATE = 1\n"),
        pytest.raises(ValueError, match=r"silent.py has no ESTIMATOR, which says what this estimator is: see docs/extending.md"),
    ):
        table_of(estimators)


def test_two_files_may_not_mean_different_things_by_one_setting(tmp_path: Path) -> None:
    code = """
from dataclasses import replace
from oprime.core.policy_losses.cispo import LOSS as cispo
LOSS = replace(cispo, settings=(replace(cispo.settings[0], default=0.5),))
"""
    with (
        one_more_file(policy_losses, tmp_path, "clash", code),
        pytest.raises(ValueError, match="'clash' has a setting 'clip_low' that another file declares differently: rename it"),
    ):
        own_settings(ALGORITHM_FILES.values())


def test_a_weight_of_rewards_that_the_estimator_does_not_take_is_refused(tmp_path: Path) -> None:
    said = r'process_weight \(1\) does nothing with algorithm.estimator = "median", which takes no process rewards: set algorithm.process_w'
    with one_more_file(estimators, tmp_path, "median", example("median")):
        with pytest.raises(ValueError, match=said):
            AlgorithmSection.model_validate({"estimator": "median"})
        assert not AlgorithmSection.model_validate({"estimator": "median", "process_weight": 0}).needs_prm


def test_tables_say_when_a_formula_holds() -> None:
    loss = policy_losses.named("clip")
    formulas = (*loss.formulas, Formula(text="x", when={"dual_clip": 2.0}))

    class OneFile:
        def names(self) -> tuple[str, ...]:
            return ("clip",)

        def named(self, name: str) -> Choice:
            return replace(loss, formulas=formulas)

    folder: Folder = OneFile()
    row = table_of(folder).splitlines()[-1]
    assert row.startswith("| `clip`: PPO's clip (arXiv 1707.06347")
    assert "<br>where A < 0, L_t is at most -c A; c = `dual_clip`; unless dual_clip = 0<br>x; with dual_clip = 2.0 | " in row
    assert row.endswith("|  | `clip_low`, `clip_high`, `dual_clip` |")


EXPLAIN = "import sys; from oprime_cli.main import main; sys.exit(main(sys.argv[1:]))"
OWN = """
from dataclasses import replace
from oprime.core.one_file import OwnSetting
from oprime.core.prm_losses.ce import LOSS as ce
def losses(tokens, *, label_noise, beta): ...
def contradictions(*, label_noise, update):
    if update == "offline": yield f"label_noise {label_noise} offline"
LOSS = replace(ce, losses=losses, contradictions=contradictions, settings=(OwnSetting(name="label_noise", default=0, high=9, meaning="x"),))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the guide, and a PRM loss with a setting of its own, as a person would add them."""
    files = {
        "estimators": {"median": example("median")},
        "prm_losses": {"brier": example("brier"), "noisy": OWN},
        "policy_losses": {"spo": example("spo")},
        "corrections": {"halved": example("halved")},
    }
    made: dict[str, Path] = {}
    for package, codes in files.items():
        made[package] = tmp_path_factory.mktemp(package)
        for name, code in codes.items():
            (made[package] / f"{name}.py").write_text(code, encoding="utf-8")
    return made


def test_the_command_line_knows_new_files_their_settings_and_their_formulas(folders: dict[str, Path]) -> None:
    chosen = ("algorithm.policy_loss=spo", "algorithm.spo_width=0.3", "algorithm.correction=halved", "prm.loss=brier")
    shown = run_with_files(folders, EXPLAIN, "explain", str(DEMO), *(text for one in chosen for text in ("--set", one)))
    assert shown.returncode == 0, shown.stderr
    for said in ("SPO, arXiv 2401.16025", "e = 0.3", "algorithm.spo_width = 0.3", "(sigmoid(s) - r_o)^2", "sqrt(pi_proximal"):
        assert said in shown.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("algorithm.spo_width=0",), "algorithm.spo_width: Input should be greater than 0"),
        (("algorithm.spo_width=0.3",), 'does nothing with algorithm.policy_loss = "clip": it is for spo only; set algorithm.spo_width=0.2'),
        (("prm.label_noise=1",), 'prm.label_noise (1) does nothing with prm.loss = "ce": it is for noisy only; set prm.label_noise=0'),
        (("prm.loss=noisy", "prm.label_noise=0.5"), "prm.label_noise: Input should be a valid integer"),
        (("prm.loss=noisy", "prm.label_noise=2", "prm.update=offline"), "label_noise 2 offline"),
    ],
)
def test_own_settings_of_new_files_have_their_rules(folders: dict[str, Path], settings: tuple[str, ...], said: str) -> None:
    refused = run_with_files(folders, EXPLAIN, "explain", str(DEMO), *(text for one in settings for text in ("--set", one)))
    assert refused.returncode == 2
    assert said in refused.stderr.replace("\n", " ")
