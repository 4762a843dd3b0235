"""The complete settings in deploy/config: their numbers are those of the paper, and each passes the checks before a start."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from byte_tokenizer import byte_tokenizer
from named_runs import FOLDER, NAMED_RUNS
from oprime_cli.data.settings import ActionsConfig, PrepareConfig
from oprime_cli.data.settings import read_settings as read_data_settings
from oprime_cli.main import main
from oprime_cli.offline_prm.plan import read_plan
from oprime_cli.overrides import load_config
from oprime_cli.planning.plan import Plan, make_plan
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Gpu
from oprime_cli.warm_up.config import SftSection
from oprime_cli.warm_up.plan import read_settings
from unit.cli.conftest import MODEL, TENSORS, write_safetensors

FINE_TUNED = ("compose", "demo", "eurus-2-7b-sft", "recipe", "single-gpu")
GPUS = {"eurus-2-7b-prime": 8, "qwen2.5-0.5b-gsm8k": 1, "single-gpu": 1}


def sft_of(name: str, *overrides: str) -> SftSection:
    found = read_settings(FOLDER / f"{name}.toml", list(overrides)).sft
    assert found is not None
    return found


def test_the_runs_that_the_documentation_names_are_there() -> None:
    assert {"demo", "eurus-2-7b-prime", "qwen2.5-0.5b-gsm8k", "single-gpu"} <= {path.stem for path in NAMED_RUNS}


@pytest.mark.parametrize("path", NAMED_RUNS, ids=lambda path: path.stem)
def test_a_named_run_has_valid_settings(path: Path) -> None:
    assert RunConfig.load(path).run.steps > 0


@pytest.mark.parametrize("path", NAMED_RUNS, ids=lambda path: path.stem)
def test_no_named_run_holds_a_path_of_one_machine(path: Path) -> None:
    config = RunConfig.load(path)
    named = [config.model.path, config.tasks.train, config.tasks.heldout, config.sft.output if config.sft else ""]
    assert not any(name.startswith(("/home", "/root", "/work", "/Users")) for name in named), json.dumps(named)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that is complete for everything that does not compute with it."""
    directory = tmp_path_factory.mktemp("models") / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**MODEL, "max_position_embeddings": 8192}))
    write_safetensors(directory / "model.safetensors", TENSORS)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    def write(row: dict[str, object]) -> str:
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        return str(tmp_path / "rows.jsonl")

    return write


@pytest.mark.parametrize("name", GPUS)
def test_a_run_for_gpus_passes_its_dry_run_on_such_a_machine(name: str, model: Path, rows: Callable[..., str], tmp_path: Path) -> None:
    task = {
        "data_source": "numina_olympiads",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0, "split": "train"},
    }
    local = [
        f"model.path={model}",
        f"run.directory={tmp_path / 'runs'}",
        *(f"tasks.{split}={rows(task)}" for split in ("train", "heldout")),
    ]
    without_sft = [f"sft.output={model}"] if name in FINE_TUNED else []
    plan: Plan = make_plan(
        load_config(FOLDER / f"{name}.toml", [*local, *without_sft]),
        new_run=True,
        gpus=[Gpu(str(place), 80 * 2**30) for place in range(GPUS[name])],
    )
    # What this machine lacks is not the settings' fault.
    assert [problem for problem in plan.problems if "not installed" not in problem] == []
    assert plan.warnings == []


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_fine_tuning_passes_its_dry_run(
    name: str, model: Path, rows: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "system": "Think.",
        "conversations": [
            {"from": "human", "value": "2 + 2?"},
            {"from": "gpt", "value": "4"},
            {"from": "human", "value": "so"},
            {"from": "gpt", "value": "5"},
        ],
    }
    changes = [f"sft.start={model}", f"sft.output={tmp_path / 'out'}", f"sft.demonstrations={rows(row)}"]
    assert main(["sft", str(FOLDER / f"{name}.toml"), "--dry-run", *(part for text in changes for part in ("--set", text))]) == 0
    said = capsys.readouterr().out
    assert "«4<|im_end|>»" in said
    assert "«5<|im_end|>»" in said
    assert not (tmp_path / "out").exists()


def test_the_demo_makes_its_own_model_on_a_laptop() -> None:
    config = RunConfig.load(FOLDER / "demo.toml")
    assert config.sft is not None
    assert config.sft.output in ("", config.model.path)
    assert (config.tasks.source, config.queue.url) == ("chain", "embedded")
    # 8 steps, the answer and the end token.
    assert config.sampling.max_response_tokens >= config.tasks.chain.operations + 2


def test_one_gpu_goes_from_a_base_model_to_an_evaluation() -> None:
    config = RunConfig.load(FOLDER / "single-gpu.toml")
    assert config.sft is not None
    assert (config.sft.output, config.sft.start) == (config.model.path, "Qwen/Qwen2.5-Math-1.5B")
    assert (config.learner.ranks, config.prm.ranks, config.sft.ranks, config.generator.tensor_parallel) == (1, 1, 1, 1)
    assert config.tasks.heldout


def test_the_papers_fine_tuning_has_the_papers_numbers() -> None:
    sft = sft_of("eurus-2-7b-sft")
    assert (sft.learning_rate, sft.schedule, sft.warmup_ratio, sft.batch_rows, sft.epochs, sft.seed) == (1e-5, "cosine", 0.1, 96, 3, 42)
    assert (sft.max_tokens, sft.long_rows, sft.heldout_share, sft.zero_stage) == (6144, "cut", 0.001, 3)
    settings = read_settings(FOLDER / "eurus-2-7b-sft.toml", [])
    assert (settings.model.path, settings.model.dtype) == ("Qwen/Qwen2.5-Math-7B", "bfloat16")


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
    assert (config.coordinator.groups_per_batch, config.sampling.group_size, config.run.steps) == (256, 4, 592)
    assert (config.learner.learning_rate, config.prm.learning_rate, config.prm.beta) == (5e-7, 1e-6, 0.05)
    assert (config.learner.weight_decay, config.prm.weight_decay, config.learner.adam_beta2, config.prm.adam_beta2) == (
        1e-2,
        0,
        0.999,
        0.999,
    )
    assert (config.learner.schedule, config.prm.schedule, config.learner.warmup_steps) == ("constant", "constant", 0)
    assert (config.learner.gradient_clip, config.prm.gradient_clip) == (1.0, 10.0)
    assert (config.sampling.max_prompt_tokens, config.sampling.max_response_tokens) == (1024, 3072)
    assert (config.coordinator.filter.low, config.coordinator.filter.high, config.coordinator.filter.drop_truncated) == (0.2, 0.8, False)
    assert (config.prm.update, config.prm.loss, config.prm.reference) == ("single_forward", "ce", "sft")
    assert (config.algorithm.process_weight, config.algorithm.outcome_weight, config.algorithm.kl_coefficient) == (1, 1, 0)
    own = dict(config.algorithm)
    assert (config.algorithm.policy_loss, own["clip_low"], own["clip_high"], config.algorithm.entropy_coefficient) == ("clip", 0.2, 0.2, 0)
    assert config.staleness.max_staleness == 0
    # 1,024 responses in mini-batches of 256.
    assert config.learner.updates_per_batch == config.prm.updates_per_batch == 4


def test_the_offline_prm_has_eurusprms_numbers() -> None:
    settings = read_plan(FOLDER / "prm" / "eurusprm-stage1.toml", []).settings
    assert (settings.loss, settings.beta, settings.learning_rate, settings.epochs) == ("ce", 0.05, 5e-7, 1)
    assert (settings.schedule, settings.min_learning_rate_ratio, settings.warmup_ratio) == ("cosine", 0.1, 0.03)
    # 64 responses a step, eight to a prompt.
    assert (settings.adam_beta1, settings.adam_beta2, settings.batch_prompts, settings.zero_stage) == (0.9, 0.95, 8, 3)
    assert settings.data.startswith("data/")


def test_the_files_for_training_data_have_valid_settings() -> None:
    prepare = read_data_settings(PrepareConfig, FOLDER / "data" / "gsm8k.toml", [])
    actions = read_data_settings(ActionsConfig, FOLDER / "data" / "actions.toml", [])
    assert all(section.file.startswith("hf://datasets/") for section in (*prepare.sources, *actions.sources))
