"""The offline implicit PRM: data, steps, resuming, and what it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oprime.core.token_rows import token_rows
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.errors import SettingsError
from oprime.tasks.chain import Teacher
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime.tasks.response_formats.chain import labelled_row, teacher_responses
from oprime_cli.model_training.positions import Steps
from oprime_cli.offline_prm.config import OfflinePrmSection, OfflinePrmSettings
from oprime_cli.offline_prm.data import ChainGroups, Encoder, FileGroups
from oprime_cli.offline_prm.plan import OfflinePrm, plan_offline_prm
from oprime_cli.offline_prm.trainer import OfflineTrainer, StepResult
from oprime_cli.offline_prm.training import train
from oprime_cli.warm_up.start import new_chain_model
from plain_engine import PlainEngine, on_ranks, ranked_engines

END = 2
OPERATIONS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain model with random weights."""
    directory = tmp_path_factory.mktemp("start") / "model"
    new_chain_model(0).save_pretrained(str(directory))
    chain_tokenizer().save_pretrained(str(directory))
    return directory


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts with four responses each."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = (labelled_row(teacher_responses(Teacher(7), "train", index, OPERATIONS, 4)) for index in range(12))
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


def section(**changes: Any) -> OfflinePrmSection:
    settings = {"learning_rate": 1e-2, "beta": 0.5, "max_tokens": 40, "batch_prompts": 4, "device": "cpu", "save_every": 2, **changes}
    return OfflinePrmSection.model_validate(settings)


def plan(folder: Path, model: Path, **changes: Any) -> OfflinePrm:
    document = {
        "run": {"name": "test", "steps": 1},
        "model": {"path": str(model)},
        "tasks": {"source": "chain", "chain": {"operations": OPERATIONS}},
        "offline_prm": section(**{"output": str(folder / "prm"), **changes}).model_dump(),
    }
    return plan_offline_prm(OfflinePrmSettings.from_document(document, origin="test"))


def encoder() -> Encoder:
    return Encoder(chain_tokenizer(), END, 40)


def trainer(rows: Path, engine: PlainEngine, **changes: Any) -> OfflineTrainer:
    settings = section(data=str(rows), **changes)
    groups = FileGroups(settings, encoder())
    steps = Steps.of(size=groups.size, epochs=1, steps=0, batch=settings.batch_prompts)
    frozen = FrozenModel(new_chain_model(0), chunk_tokens=64)
    return OfflineTrainer(engine, frozen, groups, settings.online(steps.steps), steps, pad_id=0)


def fresh_engine() -> PlainEngine:
    return PlainEngine(TokenLogprobModel(new_chain_model(0), 64))


# Data


def test_the_steps_of_the_epochs_take_every_prompt_once_per_epoch(rows: Path) -> None:
    groups = FileGroups(section(data=str(rows)), encoder())
    assert (groups.size, groups.responses) == (12, 48)
    steps = Steps.of(size=groups.size, epochs=2, steps=0, batch=5)
    positions = [position for step in range(1, steps.steps + 1) for position in steps.positions(step)]
    assert (steps.steps, positions) == (5, list(range(24)))
    prompts = [groups.at(position)[0].prompt_ids.tolist() for position in positions]
    assert sorted(prompts[:12]) == sorted(prompts[12:])
    assert prompts[:12] != prompts[12:]
    assert Steps.of(size=12, epochs=1, steps=7, batch=5).positions(7) == range(30, 35)


def test_rows_with_the_same_prompt_are_one_group(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [("3 +8 ?", "=1 #1", 1), ("5 -2 ?", "=3 #3", 1), ("3 +8 ?", "=2 #2", 0)]
    for prompt, response, label in turns:
        conversation = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        with file.open("a") as stream:
            stream.write(json.dumps({"response": conversation, "label": label}) + "\n")
    groups = FileGroups(section(data=str(file)), encoder())
    tokenizer: Any = chain_tokenizer()
    found = {len(group): group for group in (groups.at(0), groups.at(1))}
    assert [tokenizer.decode([*one.prompt_ids, *one.response_ids]) for one in found[2]] == [
        "3 +8 ? =1 #1 <eos>",
        "3 +8 ? =2 #2 <eos>",
    ]
    assert [one.outcome_reward for one in found[2]] == [1.0, 0.0]
    # A loss that compares siblings has nothing to learn from the other prompt.
    assert FileGroups(section(data=str(file), loss="dpo"), encoder()).size == 1


def test_what_the_loss_cannot_learn_from_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "3 +8 ?", "responses": ["=1 #1"], "labels": [1]}))
    with pytest.raises(SettingsError, match=r'offline_prm.loss = "dpo" compares responses to one prompt, and no prompt of .* a right and'):
        FileGroups(section(data=str(file), loss="dpo"), encoder())
    with pytest.raises(SettingsError, match=r"offline_prm.rarity_weight: balancing looks at .* has one response; leave it out"):
        FileGroups(section(data=str(file), rarity_weight=True), encoder())


def test_bad_rows_are_refused_or_left_out(rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    long = {"prompt": "3 +8 ?", "responses": [" ".join(["=1"] * 60)], "labels": [1]}
    file.write_text(json.dumps(long) + "\n" + rows.read_text())
    with pytest.raises(SettingsError, match=r"row 1, row: no usable response: .* 64 tokens, more than offline_prm.max_tokens = 40"):
        FileGroups(section(data=str(file)), encoder())
    assert FileGroups(section(data=str(file), skip_bad_rows=True), encoder()).size == 12


def test_the_teacher_gives_pairs_where_the_loss_needs_them() -> None:
    settings = section(loss="dpo", teacher_responses=4)
    chain = OfflinePrmSettings.model_validate(
        {"run": {"name": "x", "steps": 1}, "model": {"path": "x"}, "tasks": {"source": "chain"}, "offline_prm": {}}
    ).tasks.chain
    groups = ChainGroups(chain, settings, encoder())
    for position in range(4):
        assert {one.outcome_reward for one in groups.at(position)} == {0.0, 1.0}
    assert [one.response_ids.tolist() for one in groups.at(1)] == [one.response_ids.tolist() for one in groups.at(1)]
    with pytest.raises(SettingsError, match="none of 64 chain problems has both right and wrong responses"):
        ChainGroups(chain, section(loss="dpo", teacher_responses=1), encoder()).at(0)


# Steps


def test_a_step_has_the_loss_and_the_gradient_of_the_mean_over_its_responses(rows: Path) -> None:
    engine = fresh_engine()
    one = trainer(rows, engine)
    first = one.step(1)
    # The PRM equals its reference: all scores are 0.
    assert first.loss == pytest.approx(math.log(2), abs=1e-5)
    assert first.accuracy == 0.5
    groups = FileGroups(section(data=str(rows)), encoder())
    responses = [response for position in range(4, 8) for response in groups.at(position)]
    tokens = token_rows([one.prompt_ids for one in responses], [one.response_ids for one in responses], pad_id=0)
    ratios = engine.logprobs(tokens) - FrozenModel(new_chain_model(0), chunk_tokens=64).logprobs(tokens)
    scores = 0.5 * ratios.sum(1)
    outcomes = torch.tensor([one.outcome_reward for one in responses])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, outcomes)
    assert one.step(2).loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("loss", [{}, {"loss": "dpo"}, {"loss": "prefix_value", "beta": 10.0, "difficulty_offset": True}])
def test_passes_and_ranks_change_nothing(rows: Path, loss: dict[str, Any]) -> None:
    alone = trainer(rows, fresh_engine(), **loss)
    expected = [alone.step(1), alone.step(2)]
    split = trainer(rows, fresh_engine(), micro_batch_tokens=30, **loss)
    engines = ranked_engines([TokenLogprobModel(new_chain_model(0), 64) for _ in range(2)])
    ranks = [trainer(rows, engine, **loss) for engine in engines]
    for number, whole in enumerate(expected, start=1):
        for found in (split.step(number), *on_ranks([lambda rank=rank, number=number: rank.step(number) for rank in ranks])):
            assert found.loss == pytest.approx(whole.loss, rel=1e-3)
            assert found.accuracy == pytest.approx(whole.accuracy)


@pytest.mark.parametrize("loss", [{}, {"loss": "dpo"}, {"loss": "prefix_value", "beta": 10.0}, {"rarity_weight": True}])
def test_steps_on_the_same_responses_lower_the_loss(rows: Path, loss: dict[str, Any]) -> None:
    one = trainer(rows, fresh_engine(), learning_rate=1e-3, schedule="constant", batch_prompts=12, **loss)
    results = [one.step(1) for _ in range(12)]
    assert results[-1].loss < 0.8 * results[0].loss
    assert results[-1].pairwise_accuracy > 0.7 > results[0].pairwise_accuracy


# Runs


class KilledError(Exception):
    """Stands for the end of the process."""


def die_after(step: int) -> Callable[[int, int, StepResult], None]:
    def after_step(done: int, _steps: int, _result: StepResult) -> None:
        if done == step:
            raise KilledError

    return after_step


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def steps_and_losses(model: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (model / "offline_prm.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize("options", [{"epochs": 2}, {"loss": "dpo", "zero_stage": 2, "epochs": 4}, {"epochs": 2, "lora": {"rank": 4}}])
def test_a_resumed_training_ends_with_the_very_weights_of_one_that_was_never_interrupted(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    whole = train(plan(tmp_path / "whole", model, data=str(rows), **options))
    broken = plan(tmp_path / "broken", model, data=str(rows), **options)
    with pytest.raises(KilledError):
        train(broken, after_step=die_after(5))
    assert not broken.folder.output.exists()
    capsys.readouterr()
    resumed = train(plan(tmp_path / "broken", model, data=str(rows), **options))
    assert "from step 4" in capsys.readouterr().out
    assert weights(resumed).keys() == weights(whole).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    record = json.loads((resumed / "offline_prm.json").read_text())
    assert record == json.loads((whole / "offline_prm.json").read_text())
    # The step after the last saved state was taken twice, and is written down once.
    losses = steps_and_losses(whole)
    assert steps_and_losses(resumed) == losses
    assert [step for step, _ in losses] == list(range(1, len(losses) + 1))
    assert (record["beta"], record["reference_model"]) == (0.5, str(model))
    assert train(plan(tmp_path / "broken", model, data=str(rows), **options)) == resumed
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"is finished, but with other settings \(offline_prm.seed was 0 and is 1\)"):
        train(plan(tmp_path / "broken", model, data=str(rows), seed=1, **options))


def test_settings_that_cannot_work_are_refused(tmp_path: Path, model: Path, rows: Path) -> None:
    for changes, said in (
        ({"output": ""}, r"offline_prm.output is empty"),
        ({"data": ""}, r"offline_prm.steps = 0 with the chain task's teacher, whose problems never end: set offline_prm.steps=300"),
        ({"output": str(model), "data": str(rows)}, r"offline_prm.output and the model to begin with are both"),
        ({"ranks": 9}, r"offline_prm.ranks = 9 is more than the offline_prm.batch_prompts = 4"),
        ({"offload_optimizer": True}, r"offline_prm.offload_optimizer = true with offline_prm.zero_stage = 0"),
    ):
        with pytest.raises(SettingsError, match=said):
            plan(tmp_path, model, **changes)
    with pytest.raises(SettingsError, match=r"offline_prm.max_tokens = 4000 is more than the 128 positions of .*=128"):
        train(plan(tmp_path, model, data=str(rows), max_tokens=4000))


def test_settings_of_other_losses_and_margins_out_of_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offline_prm.margin = 5 with offline_prm.beta = 0.05: .* set offline_prm.beta=10"):
        OfflinePrmSection(loss="prefix_value")
    with pytest.raises(ValueError, match=r'offline_prm.margin \(2\) does nothing with offline_prm.loss = "ce"'):
        OfflinePrmSection.model_validate({"margin": 2})


def test_a_run_with_the_same_settings_would_take_the_same_steps() -> None:
    online = section(loss="prefix_value", beta=10.0, margin=4.0, warmup_ratio=0.25, weight_decay=0.1).online(steps=8)
    assert (online.loss, online.beta, online.update, online.weight_decay) == ("prefix_value", 10.0, "single_forward", 0.1)
    assert dict(online)["margin"] == 4.0
    rates = online.learning_rates(8)
    # A quarter of eight steps grows; at the end a tenth of the peak is left.
    assert [rates.at(step) for step in (1, 2, 9)] == pytest.approx([5e-3, 1e-2, 1e-3])
    assert section(loss="dpo").online(8).update == "reverse"
