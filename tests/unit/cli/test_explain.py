"""`oprime explain`: every choice of the algorithm has its formula."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from oprime.runtime.settings import AlgorithmSection
from oprime_cli.explanation import summary, terms
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_prm.config import PrmSection

MakeConfig = Callable[..., RunConfig]
CONFIGS = sorted((Path(__file__).parents[3] / "deploy/config").glob("*.toml"))


def explained(config: RunConfig) -> dict[str, str]:
    return {term.name: term.formula for term in terms(config)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_named_runs_are_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "leave-one-out baselines (paper, Eq. 5)" in printed
    assert "algorithm.estimator = rloo" in printed


def test_the_default_is_the_papers_algorithm(make_config: MakeConfig) -> None:
    formulas = explained(make_config())
    assert formulas["kept groups"] == "0.2 <= mean r_o <= 0.8 and no response cut at the token limit"
    assert formulas["process reward"] == "r_t = 0.05 (log pi_phi(y_t) - log pi_ref(y_t)), the end token included"
    assert formulas["process part"] == "P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the siblings j); g = 1"
    assert formulas["advantage"].startswith("A_t = 1 P_t + 1 O_t, then (A_t - mean)")
    assert formulas["token loss"] == "L_t = w max(-A rho, -A clip(rho, 0.8, 1.2))"
    assert formulas["policy loss"] == "sum over tokens of L_t / all response tokens of the optimizer step"


def test_what_is_not_used_is_not_shown(make_config: MakeConfig) -> None:
    formulas = explained(make_config("algorithm.process_weight=0", "algorithm.whiten_advantages=false", "coordinator.filter.enabled=false"))
    assert "process part" not in formulas
    assert "normalisation" not in formulas
    assert formulas["advantage"] == "A_t = 1 O_t"
    assert formulas["kept groups"] == "all"
    assert "PRM loss" not in explained(make_config("prm.update=offline", "prm.reference=policy"))


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_kl_stands_where_it_acts(make_config: MakeConfig, kl_in: str) -> None:
    formulas = explained(make_config("algorithm.kl_coefficient=0.01", f"algorithm.kl_in={kl_in}"))
    assert ("KL in the loss" in formulas, "KL in the reward" in formulas) == (kl_in == "loss", kl_in == "reward")
    assert "0.01" in formulas[f"KL in the {kl_in}"]


def test_ppo_is_explained_with_its_critic(make_config: MakeConfig) -> None:
    config = make_config("algorithm.estimator=ppo", "algorithm.trace_decay=0.95", "critic.value_clip=0.3", "critic.path=./v")
    formulas = explained(config)
    assert formulas["token reward"] == "e_t = 1 r_t, and 1 r_o besides at the last token T"
    assert formulas["advantage"].startswith("A_t = sum_{s>=t} (g l)^(s-t) (e_s + g V_{s+1} - V_s); g = 1, l = 0.95, then (A_t - mean)")
    assert "layers of ./v below a linear head" in formulas["value"]
    assert "clip(V - V_before, -0.3, 0.3)" in formulas["critic loss"]
    assert any("Critic: its values from before the step are the baseline" in line for line in summary(config))
    plain = explained(make_config("algorithm.estimator=ppo", "algorithm.process_weight=0", "critic.value_clip=0"))
    assert plain["token reward"] == "e_t = 0, and 1 r_o besides at the last token T"
    assert plain["critic loss"].startswith("1/2 (V - R)^2, R = A_t before whitening + V_before")
    assert "critic loss" not in explained(make_config())


def test_an_entropy_bonus_is_shown_where_there_is_one(make_config: MakeConfig) -> None:
    assert "entropy bonus" not in explained(make_config())
    formulas = explained(make_config("algorithm.entropy_coefficient=0.003"))
    assert formulas["entropy bonus"].startswith("L_t := L_t - 0.003 H_t")


NAMES = (
    "estimator", "loo", "granularity", "process_normalisation", "policy_loss", "correction", "aggregation", "loss", "update", "reference",
)  # fmt: skip
CHOICES = [
    (f"{prefix}.{name}", choice)
    for prefix, section in (("algorithm", AlgorithmSection), ("prm", PrmSection))
    for name in NAMES
    if name in section.model_fields
    for choice in get_args(section.model_fields[name].annotation)
]


def test_every_choice_changes_what_is_said(make_config: MakeConfig) -> None:
    by_setting = itertools.groupby(CHOICES, key=lambda choice: choice[0])
    assert len(CHOICES) > 20
    for setting, choices in by_setting:
        said = [
            str([*summary(config), *explained(config).values()]) for config in (make_config(f"{name}={value}") for name, value in choices)
        ]
        assert len(set(said)) == len(said), setting


def test_contradictory_settings_run_no_algorithm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(CONFIGS[0]), "--set", "prm.loss=dpo"]) == 2
    assert "use prm.update=reverse" in capsys.readouterr().err
