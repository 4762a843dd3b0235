"""The complete named runs in deploy/config."""

import json
from pathlib import Path

import pytest

from oprime_cli.offline_prm.plan import read_plan
from oprime_cli.run_config import RunConfig

FOLDER = Path(__file__).parents[2] / "deploy" / "config"
CONFIGS = sorted(FOLDER.glob("*.toml"))


def test_the_runs_that_the_documentation_names_are_there() -> None:
    assert {"demo", "eurus-2-7b-prime", "qwen2.5-0.5b-gsm8k"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_named_run_has_valid_settings(path: Path) -> None:
    assert RunConfig.load(path).run.steps > 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_named_run_holds_a_path_of_one_machine(path: Path) -> None:
    config = RunConfig.load(path)
    named = [config.model.path, config.tasks.train, config.tasks.heldout, config.sft.output if config.sft else ""]
    assert not any(name.startswith(("/home", "/root", "/work", "/Users")) for name in named), json.dumps(named)


def test_the_demo_makes_its_own_model_on_a_laptop() -> None:
    config = RunConfig.load(FOLDER / "demo.toml")
    assert config.sft is not None
    assert config.sft.output in ("", config.model.path)
    assert (config.tasks.source, config.queue.url) == ("chain", "embedded")
    # 8 steps, the answer and the end token.
    assert config.sampling.max_response_tokens >= config.tasks.chain.operations + 2


def test_the_recipe_begins_with_a_small_shipped_model_and_keeps_all_rollouts_for_its_offline_prm() -> None:
    config = RunConfig.load(FOLDER / "recipe.toml")
    assert config.sft is not None
    assert config.offline_prm is not None
    start = FOLDER.parents[1] / config.sft.start
    assert (start / "model.safetensors").stat().st_size < 16 * 2**20
    assert config.prm.sampled_groups == config.coordinator.groups_per_batch
    assert config.tasks.source == "prose"


def test_the_papers_run_has_the_papers_numbers() -> None:
    config = RunConfig.load(FOLDER / "eurus-2-7b-prime.toml")
    assert (config.coordinator.groups_per_batch, config.sampling.group_size) == (256, 4)
    assert (config.learner.learning_rate, config.prm.learning_rate, config.prm.beta) == (5e-7, 1e-6, 0.05)
    assert (config.learner.gradient_clip, config.prm.gradient_clip) == (1.0, 10.0)
    assert (config.sampling.max_prompt_tokens, config.sampling.max_response_tokens) == (1024, 3072)
    assert (config.coordinator.filter.low, config.coordinator.filter.high) == (0.2, 0.8)
    # 1,024 responses in mini-batches of 256.
    assert config.learner.updates_per_batch == config.prm.updates_per_batch == 4


def test_the_offline_prm_has_eurusprms_numbers() -> None:
    settings = read_plan(FOLDER / "prm" / "eurusprm-stage1.toml", []).settings
    assert (settings.loss, settings.beta, settings.learning_rate, settings.epochs) == ("ce", 0.05, 5e-7, 1)
    assert settings.data.startswith("data/")
