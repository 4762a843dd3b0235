"""`oprime explain`: every choice of the algorithm has its formula."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import tomli_w

from named_runs import NAMED_RUNS
from oprime.core import corrections, estimators, policy_losses, prm_losses
from oprime.runtime.errors import SettingsError
from oprime.runtime.settings import AlgorithmSection
from oprime_cli.explanation import summary, terms
from oprime_cli.main import main
from oprime_cli.run_config import RunConfig
from oprime_prm.config import PrmSection

MakeConfig = Callable[..., RunConfig]


def explained(config: RunConfig) -> dict[str, str]:
    return {term.name: term.formula for term in terms(config)}


@pytest.mark.parametrize("path", NAMED_RUNS, ids=lambda path: path.stem)
def test_the_named_runs_are_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "leave-one-out baselines (paper, Eq. 5)" in printed
    assert "algorithm.estimator = rloo" in printed


def test_a_runs_folder_stands_for_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["explain", str(tmp_path)]) == 2
    assert f"no settings file {tmp_path}/config.toml: " in capsys.readouterr().err
    run.mkdir()
    (run / "config.toml").write_text(NAMED_RUNS[0].read_text())
    assert main(["explain", str(run)]) == 0
    assert "the algorithm of run" in capsys.readouterr().out


def test_the_default_is_the_papers_algorithm(make_config: MakeConfig) -> None:
    formulas = explained(make_config())
    assert formulas["kept groups"] == "0.2 <= mean r_o <= 0.8 and no response cut at the token limit"
    assert formulas["process reward"] == "r_t = b (log pi_phi(y_t) - log pi_ref(y_t)), the end token included; b = 0.05"
    assert formulas["process part"] == "P_t = sum_{s>=t} g^(s-t) (r_s - mean of m_j over the siblings j); g = 1"
    assert formulas["advantage"].startswith("A_t = w_p P_t + w_o O_t; w_p = 1, w_o = 1, then (A_t - mean)")
    assert formulas["token loss"] == "L_t = max(-A rho, -A clip(rho, 1 - low, 1 + high)); low = 0.2, high = 0.2"
    assert "dual clip" not in formulas
    assert formulas["correction for old weights"] == ("L_t := w L_t; w = min(pi_proximal / pi_behaviour, c) per token, no gradient; c = 2")
    assert formulas["policy loss"] == "sum over tokens of L_t / all response tokens of the optimizer step"


def test_what_is_not_used_is_not_shown(make_config: MakeConfig) -> None:
    formulas = explained(make_config("algorithm.process_weight=0", "algorithm.whiten_advantages=false", "coordinator.filter.enabled=false"))
    assert "process part" not in formulas
    assert "normalisation" not in formulas
    assert [name for name in formulas if "PRM" in name or "process" in name] == []
    assert formulas["advantage"] == "A_t = w_o O_t; w_o = 1"
    assert formulas["kept groups"] == "all"
    assert "PRM loss" not in explained(make_config("prm.update=offline", "prm.reference=policy"))


def test_adapters_are_explained_with_what_they_save(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_policy, of_prm = "learner.lora={rank = 4, targets = ['q_proj']}", "prm.lora={rank = 16, rslora = true, publish = 'adapter'}"
    config = make_config(of_policy, of_prm)
    formulas = explained(config)
    assert formulas["policy weights"].startswith(
        "W + s B A in the layers q_proj; A and B are trained, W is frozen; s = alpha / r = 8, r = 4"
    )
    assert formulas["policy weights"].endswith("versions are whole models, W + s B A rounded to model.dtype")
    assert "s = alpha / sqrt(r) = 8, r = 16; versions are adapters alone" in formulas["PRM weights"]
    assert "policy weights" not in explained(make_config())
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    assert main(["explain", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    # Two q_proj of 64 + 64 sides.
    assert "learner: adapters of rank 4 train 1,024 of" in printed
    assert re.search(r"prm: adapters of rank 16 train [\d.,kM]+ of .* and saves .*on the same weights", printed)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_kl_stands_where_it_acts(make_config: MakeConfig, kl_in: str) -> None:
    formulas = explained(make_config("algorithm.kl_coefficient=0.01", f"algorithm.kl_in={kl_in}"))
    assert ("KL in the loss" in formulas, "KL in the reward" in formulas) == (kl_in == "loss", kl_in == "reward")
    assert "0.01" in formulas[f"KL in the {kl_in}"]


def test_ppo_is_explained_with_its_critic(make_config: MakeConfig) -> None:
    config = make_config("algorithm.estimator=ppo", "algorithm.trace_decay=0.95", "critic.value_clip=0.3", "critic.path=./v")
    formulas = explained(config)
    assert formulas["token reward"] == "e_t = w_p r_t, and w_o r_o besides at the last token T; w_p = 1, w_o = 1"
    assert formulas["advantage"].startswith("A_t = sum_{s>=t} (g l)^(s-t) (e_s + g V_{s+1} - V_s); g = 1, l = 0.95, then (A_t - mean)")
    assert "layers of ./v below a linear head" in formulas["value"]
    assert "clip(V - V_before, -c, c)" in formulas["critic loss"]
    assert formulas["critic loss"].endswith("c = 0.3")
    assert any("Critic: its values from before the step are the baseline" in line for line in summary(config))
    plain = explained(make_config("algorithm.estimator=ppo", "algorithm.process_weight=0", "critic.value_clip=0"))
    assert plain["token reward"].endswith("w_p = 0, w_o = 1")
    assert plain["critic loss"].startswith("1/2 (V - R)^2, R = A_t before whitening + V_before")
    assert "critic loss" not in explained(make_config())


def test_a_files_formula_source_and_settings_are_shown(make_config: MakeConfig) -> None:
    config = make_config("algorithm.dual_clip=3", "algorithm.correction=none", "prm.loss=dpo", "prm.update=reverse")
    (dual,) = [term for term in terms(config) if term.name == "dual clip"]
    assert dual.formula == "where A < 0, L_t is at most -c A; c = 3"
    assert dual.chosen_by == ("algorithm.policy_loss = clip", "algorithm.dual_clip = 3")
    said = list(summary(config))
    assert any(
        "loss: every response against the mean of its siblings of lower, or higher, outcome (paper, appendix C.2)" in line for line in said
    )
    assert "Advantages, from 1 x process rewards + 1 x outcome rewards: leave-one-out baselines (paper, Eq. 5); needs siblings." in said
    assert any(line.startswith("Loss of a token: PPO's clip (arXiv 1707.06347") for line in said)


def test_an_entropy_bonus_is_shown_where_there_is_one(make_config: MakeConfig) -> None:
    assert "entropy bonus" not in explained(make_config())
    formulas = explained(make_config("algorithm.entropy_coefficient=0.003"))
    assert formulas["entropy bonus"].startswith("L_t := L_t - h H_t")
    assert formulas["entropy bonus"].endswith("h = 0.003")


NAMES = (
    "loo", "granularity", "process_normalisation", "aggregation", "update", "reference", "gspo_gradient", "divide_by_std", "standardised",
    "process_credit", "value_offset",
)  # fmt: skip
CHOICES = [
    *(("algorithm.estimator", name) for name in estimators.names()),
    *(("algorithm.policy_loss", name) for name in policy_losses.names()),
    *(("algorithm.correction", name) for name in corrections.names()),
    *(("prm.loss", name) for name in prm_losses.names()),
    *(
        (f"{prefix}.{name}", choice)
        for prefix, section in (("algorithm", AlgorithmSection), ("prm", PrmSection))
        for name in NAMES
        if name in section.model_fields
        for choice in get_args(section.model_fields[name].annotation) or ("true", "false")
    ),
]


PREFIX_BASELINE = (
    "algorithm.estimator=prefix_baseline",
    "algorithm.process_normalisation=none",
    "prm.loss=prefix_value",
    "prm.beta=10",
)
OWNERS = {
    "algorithm.gspo_gradient": ("algorithm.policy_loss=gspo",),
    "algorithm.divide_by_std": ("algorithm.estimator=grpo",),
    "algorithm.standardised": ("algorithm.estimator=grpo",),
    "algorithm.value_offset": PREFIX_BASELINE,
}
"""What chooses the file that a setting belongs to, where it is not the default."""
NEEDED = {
    "prm.loss=prefix_value": ("prm.beta=10",),
    "algorithm.estimator=prefix_baseline": PREFIX_BASELINE[1:],
    "algorithm.value_offset=true": ("prm.difficulty_offset=true",),
    "algorithm.aggregation=constant": ("algorithm.constant_tokens=64",),
}


def test_every_choice_changes_what_is_said(make_config: MakeConfig) -> None:
    by_setting = itertools.groupby(CHOICES, key=lambda choice: choice[0])
    assert len(CHOICES) > 20
    for setting, choices in by_setting:
        configs = [make_config(f"{name}={value}", *_beside(name, value)) for name, value in choices]
        said = [str([*summary(config), *explained(config).values()]) for config in configs]
        assert len(set(said)) == len(said), setting


def _beside(setting: str, value: str) -> tuple[str, ...]:
    """What a choice cannot do without."""
    outcomes_alone = setting == "algorithm.estimator" and not estimators.named(value).takes("process")
    alone = ("algorithm.process_weight=0",) if outcomes_alone else ()
    return (*OWNERS.get(setting, ()), *NEEDED.get(f"{setting}={value}", ()), *alone)


def test_the_treatment_of_long_responses_is_explained_where_there_is_one(make_config: MakeConfig) -> None:
    assert not {"over-long penalty", "truncated responses"} & explained(make_config()).keys()
    config = make_config(
        "algorithm.overlong_buffer=64",
        "algorithm.overlong_penalty=0.5",
        "algorithm.mask_truncated=true",
        "coordinator.filter.drop_truncated=false",
    )
    formulas = explained(config)
    assert formulas["over-long penalty"].endswith(f"p = 0.5, L = {config.sampling.max_response_tokens}, c = 64")
    assert formulas["truncated responses"].startswith("L_t := 0 for responses that were cut at the token limit")


def test_balancing_is_explained_where_it_is_on(make_config: MakeConfig) -> None:
    assert not {"difficulty offset", "rarity weight"} & explained(make_config()).keys()
    formulas = explained(make_config("prm.loss=prefix_value", "prm.beta=10", "prm.margin=2", "prm.difficulty_offset=true"))
    assert formulas["PRM loss"].startswith("mean over rollouts of 1/T sum_t [r_o softplus(m - b - v_t)")
    assert formulas["PRM loss"].endswith("m = 2")
    assert formulas["difficulty offset"].startswith("b = log(u / (1 - u))")
    assert "rarity weight" not in formulas


def test_a_margin_that_no_prefix_could_keep_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match=r"prm.margin = 5 with prm.beta = 0.05: .* would have to be 100 nats .* set prm.beta=10"):
        make_config("prm.loss=prefix_value", "prm.beta=0.05")
    with pytest.raises(SettingsError, match=r'prm.difficulty_offset \(true\) does nothing with prm.loss = "dpo": .* set prm.diff.*=false'):
        make_config("prm.loss=dpo", "prm.update=reverse", "prm.difficulty_offset=true")


def test_contradictory_settings_run_no_algorithm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(NAMED_RUNS[0]), "--set", "prm.loss=dpo"]) == 2
    assert "use prm.update=reverse" in capsys.readouterr().err
