"""Supervised fine-tuning: rows, loss, learning rate, evaluation, resuming, and what it refuses."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Gemma2Config, Gemma3TextConfig, GPT2Config, Lfm2Config, MambaConfig, Olmo3Config, Phi3Config

from byte_tokenizer import byte_tokenizer
from oprime.lm.conversations import EncodedConversation as Demonstration
from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids
from oprime.runtime.errors import CheckpointError, RunEndedError, SettingsError
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime_cli.model_training.folder import SFT, ModelFolder
from oprime_cli.model_training.positions import Steps
from oprime_cli.model_training.steps import Progress
from oprime_cli.run_config import RunConfig
from oprime_cli.running.failures import BusyError
from oprime_cli.warm_up.config import SftSection
from oprime_cli.warm_up.start import new_chain_model
from oprime_cli.warm_up.trainer import StepResult, Trainer
from oprime_cli.warm_up.training import shown, train
from plain_engine import PlainEngine, on_ranks, ranked_engines

END = 2


def config(folder: Path, *, steps: int = 6, **sft: Any) -> RunConfig:
    document = {
        "run": {"name": "test", "steps": 1},
        "model": {"path": str(folder / "model")},
        "tasks": {"source": "chain", "chain": {"operations": 3}},
        "coordinator": {"groups_per_batch": 1},
        "sft": {"steps": steps, "batch_rows": 8, "max_tokens": 40, "save_every": 2, "device": "cpu", **sft},
    }
    return RunConfig.from_document(document, origin="test")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def document(length: int, trained: Sequence[int], seed: int = 0) -> Demonstration:
    """Random tokens, trained on at the places `trained`."""
    ids = np.random.default_rng([seed, length]).integers(3, 54, length).astype(np.int32)
    return Demonstration(ids, np.isin(np.arange(length), trained))


def after_prompt(length: int, prompt: int = 2) -> Demonstration:
    return document(length, range(prompt, length))


class Listed:
    """Demonstrations in the order of a list."""

    def __init__(self, *found: Demonstration) -> None:
        self._found = found

    @property
    def size(self) -> int:
        return len(self._found)

    def at(self, position: int) -> Demonstration:
        return self._found[position % len(self._found)]


def trainer(*found: Demonstration, model: Any = None, engine: Any = None, **changes: Any) -> Trainer:
    """One that takes all of `found` in every step, and evaluates them too."""
    scored = TokenLogprobModel(new_chain_model(0) if model is None else model, 1024)
    settings = SftSection(**{"steps": 6, "batch_rows": len(found), "max_tokens": 40, **changes})
    steps = Steps.of(size=0, epochs=0, steps=settings.steps, batch=settings.batch_rows)
    return Trainer(engine or PlainEngine(scored), scored.packing, settings, Listed(*found), steps, found, pad_id=0)


def loss_on_padded_rows(model: Any, found: Sequence[Demonstration]) -> float:
    """What transformers computes: -log p of each trained token, averaged over all of them."""
    width = max(len(one.ids) for one in found)
    rows = torch.tensor([[*one.ids.tolist(), *[0] * (width - len(one.ids))] for one in found])
    mask = torch.tensor([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in found])
    with torch.no_grad():
        logprobs = model(input_ids=rows, attention_mask=mask, use_cache=False).logits.double().log_softmax(-1)
    nats = [-float(logprobs[row, place - 1, one.ids[place]]) for row, one in enumerate(found) for place in one.is_trained.nonzero()[0]]
    return sum(nats) / len(nats)


# Loss


def test_the_loss_is_the_mean_over_the_trained_tokens_of_the_step_alone() -> None:
    # Two turns with a gap between them, and one row that is much longer.
    found = [document(9, [2, 3, 6, 7, 8]), document(30, [29]), document(5, [4])]
    assert trainer(*found).step(1).loss == pytest.approx(loss_on_padded_rows(new_chain_model(0), found), rel=1e-6)


def test_what_is_not_trained_on_is_context() -> None:
    one, other = document(9, [2, 3, 6, 7, 8]), document(9, [2, 3, 6, 7, 8])
    other.ids[4] = other.ids[4] % 50 + 3
    assert other.ids[4] != one.ids[4]
    # It changes what the tokens after it cost.
    assert trainer(one).step(1).loss != trainer(other).step(1).loss


WINDOW = 8
SIZES: dict[str, Any] = {
    "vocab_size": 54, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.2,
}  # fmt: skip
WINDOWED: dict[str, Callable[..., Any]] = {
    "gemma2": lambda window: Gemma2Config(**SIZES, head_dim=32, sliding_window=window),
    "gemma3": lambda window: Gemma3TextConfig(**SIZES, head_dim=32, sliding_window=window),
    "phi3": lambda window: Phi3Config(**SIZES, sliding_window=window),
    "olmo3": lambda window: Olmo3Config(**SIZES, sliding_window=window),
}


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("lengths", [(6, 7, 5), (6, 24, 5, 30)], ids=["within the window", "beyond it"])
def test_a_model_with_a_sliding_window_learns_what_transformers_computes(family: str, lengths: tuple[int, ...]) -> None:
    # The first demonstrations are shorter than the window, so nothing about them could show that it is there.
    found = [after_prompt(length) for length in lengths]
    model = random_causal_lm(WINDOWED[family](WINDOW), 0)
    expected = loss_on_padded_rows(model, found)
    free = loss_on_padded_rows(random_causal_lm(WINDOWED[family](100), 0), found)
    assert (abs(expected - free) > 1e-3) == (max(lengths) > WINDOW), "beyond it the window must matter"
    one = trainer(*found, model=model)
    assert one._packing.longest == WINDOW
    assert one.step(1).loss == pytest.approx(expected, abs=1e-5)


def gradients_by_transformers(found: Sequence[Demonstration]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of transformers' own loss function, on padded rows, with -100 where nothing is learnt."""
    model = new_chain_model(0)
    width = max(len(one.ids) for one in found)
    rows = torch.tensor([[*one.ids.tolist(), *[0] * (width - len(one.ids))] for one in found])
    mask = torch.tensor([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in found])
    marks = torch.tensor([[*one.is_trained.tolist(), *[False] * (width - len(one.ids))] for one in found])
    loss = model(input_ids=rows, attention_mask=mask, labels=rows.masked_fill(~marks, -100), use_cache=False).loss
    loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def gradients_of(engine: PlainEngine) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in engine.model.trained.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradients_are_those_of_plain_transformers(ranks: int, packing: bool) -> None:
    # Two turns with a gap between them, lengths that share a pass, and one row that is much longer.
    found = [document(9, [2, 3, 6, 7, 8]), after_prompt(7), after_prompt(30), after_prompt(5), document(12, [11])]
    expected, gradients = gradients_by_transformers(found)
    # A clip that is never reached, so that gradients stay as they are.
    engines = ranked_engines([TokenLogprobModel(new_chain_model(0), 1024, packing=packing) for _ in range(ranks)], gradient_clip=1e9)
    trainers = [trainer(*found, engine=engine, packing=packing, micro_batch_tokens=32) for engine in engines]
    losses = on_ranks([lambda one=one: one.step(1).loss for one in trainers])
    assert losses == pytest.approx([expected] * ranks, rel=1e-5)
    for engine in engines:
        mine = gradients_of(engine)
        assert mine.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_held_out_loss_is_that_of_plain_transformers_and_changes_nothing() -> None:
    found = [document(9, [2, 3, 6, 7, 8]), after_prompt(30), after_prompt(5)]
    expected = loss_on_padded_rows(new_chain_model(0), found)
    for batch_rows in (2, 3):
        one = trainer(*found, batch_rows=batch_rows)
        assert [one.heldout_loss(), one.heldout_loss()] == pytest.approx([expected] * 2, rel=1e-6)
    engines = ranked_engines([TokenLogprobModel(new_chain_model(0), 1024) for _ in range(2)])
    trainers = [trainer(*found, engine=engine) for engine in engines]
    assert on_ranks([lambda one=one: one.heldout_loss() for one in trainers]) == pytest.approx([expected] * 2, rel=1e-6)


def test_a_model_with_a_state_in_place_of_attention_learns_on_padded_rows() -> None:
    found = [after_prompt(length) for length in (6, 24, 5)]
    model = random_causal_lm(MambaConfig(vocab_size=54, hidden_size=64, num_hidden_layers=2, state_size=8, pad_token_id=0), 0)
    expected = loss_on_padded_rows(model, found)
    one = trainer(*found, model=model)
    assert one._packing.refusal
    assert one.step(1).loss == pytest.approx(expected, abs=1e-5)


def moments(engine: PlainEngine) -> list[torch.Tensor]:
    # One step of AdamW moves every weight by the learning rate times its gradient's sign: gradients show in their moments.
    return [state["exp_avg"] for state in engine._optimizer.state.values()]


@pytest.mark.parametrize("split", [{"micro_batch_rows": 1, "max_tokens": 30}, {"micro_batch_tokens": 15}, {"packing": False}])
def test_how_a_step_is_split_changes_neither_loss_nor_gradients(split: dict[str, Any]) -> None:
    found = [document(9, [2, 3, 6, 7, 8]), after_prompt(7), after_prompt(30), after_prompt(5)]
    engines = [PlainEngine(TokenLogprobModel(new_chain_model(0), 1024, packing=split.get("packing", True))) for _ in range(2)]
    whole = trainer(*found, engine=engines[0], max_tokens=100).step(1).loss
    assert trainer(*found, engine=engines[1], **split).step(1).loss == pytest.approx(whole, rel=1e-5)
    for mine, other in zip(*map(moments, engines), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_ranks_share_a_step_of_which_one_may_have_nothing() -> None:
    found = [after_prompt(7), document(9, [2, 3, 6, 7, 8])]
    whole = PlainEngine(TokenLogprobModel(new_chain_model(0), 1024))
    expected = trainer(*found, engine=whole).step(1).loss
    engines = ranked_engines([TokenLogprobModel(new_chain_model(0), 1024) for _ in range(3)])
    ranks = [trainer(*found, engine=engine) for engine in engines]
    assert on_ranks([lambda rank=rank: rank.step(1).loss for rank in ranks]) == pytest.approx([expected] * 3, rel=1e-6)
    for mine, other in zip(moments(engines[2]), moments(whole), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


class Watched(PlainEngine):
    """Notes the shape of every forward pass."""

    def __init__(self, model: TokenLogprobModel) -> None:
        super().__init__(model)
        self.rates: list[float] = []
        self.shapes: list[tuple[int, ...]] = []

    def train_step(self, micro_batches: Any, loss: Any, *, learning_rate: float, entropies: bool = False) -> float:
        self.rates.append(learning_rate)
        self.shapes += [tuple(rows.input_ids.shape) for rows in micro_batches]
        return super().train_step(micro_batches, loss, learning_rate=learning_rate, entropies=entropies)


def test_long_and_short_rows_share_a_pass_only_where_nothing_is_computed_on_padding() -> None:
    found = [after_prompt(length) for length in (20, 6, 6, 6)]
    packed = Watched(TokenLogprobModel(new_chain_model(0), 1024))
    trainer(*found, engine=packed, micro_batch_rows=2, max_tokens=20).step(1)
    assert packed.shapes == [(4, 20)]
    # A recurrent model keeps padded rows: similar lengths go together, micro_batch_rows at a time.
    recurrent = random_causal_lm(Lfm2Config(**SIZES, full_attn_idxs=[1]), 0)
    padded = Watched(TokenLogprobModel(recurrent, 1024))
    trainer(*found, model=recurrent, engine=padded, micro_batch_rows=2, max_tokens=20).step(1)
    assert padded.shapes == [(2, 20), (2, 6)]


def test_the_learning_rate_grows_over_the_warm_up_and_falls_along_a_cosine() -> None:
    engine = Watched(TokenLogprobModel(new_chain_model(0), 1024))
    one = trainer(after_prompt(5), engine=engine, steps=20, learning_rate=1e-3)
    for step in range(1, 21):
        one.step(step)
    # A tenth of the steps grows; half-way through the others half of the peak is left.
    assert engine.rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert engine.rates[11] == pytest.approx(5e-4)
    assert 0 < engine.rates[19] < 1e-5
    assert one.step(20).learning_rate == engine.rates[19]
    constant = SftSection(schedule="constant", warmup_ratio=0.0, learning_rate=1e-3).learning_rates(300)
    assert [constant.at(1), constant.at(300)] == [1e-3, 1e-3]


def test_progress_says_how_long_it_still_takes(capsys: pytest.CaptureFixture[str]) -> None:
    say = Progress(10, shown, clock=iter([0.0, 1.0, 30.0, 90.0]).__next__)
    for step in (11, 20, 40):
        say(step, 40, StepResult(loss=0.5, gradient_norm=1.0, learning_rate=1e-3, tokens=1, trained_tokens=1))
    # Ten steps in 30 s, so the other twenty take 60 s; the first call comes too soon to say anything.
    assert capsys.readouterr().out == (
        "  step 20/40, loss 0.5000 nats per token, 30 s, about 1 min 00 s left\n  step 40/40, loss 0.5000 nats per token, 1 min 30 s\n"
    )


# Runs


def test_the_result_is_a_model_of_hugging_face_form_and_a_second_call_leaves_it_alone(tmp_path: Path, capsys: Any) -> None:
    model = train(config(tmp_path))
    assert model == tmp_path / "model"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    assert tokenizer("3 +8 ?").input_ids == chain_tokenizer()("3 +8 ?").input_ids
    assert json.loads((model / "config.json").read_text())["use_cache"] is True
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == END
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir())
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert train(config(tmp_path)) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    assert "is finished already" in capsys.readouterr().out


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    model = train(config(tmp_path, steps=40, save_every=100))
    # Guessing among 54 words costs ln 54 = 3.99 nats.
    assert json.loads((model / "sft.json").read_text())["final_loss"] < 3.0


class KilledError(Exception):
    """Stands for the end of the process."""


def die_after(step: int) -> Callable[[int, int, StepResult], None]:
    def after_step(done: int, _steps: int, _result: StepResult) -> None:
        if done == step:
            raise KilledError

    return after_step


@pytest.mark.parametrize(
    ("at_step", "options"),
    [(1, {}), (2, {}), (5, {}), (3, {"zero_stage": 2}), (3, {"gradient_clip": 0.01, "weight_decay": 0.1}), (3, {"lora": {"rank": 4}})],
)
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_was_never_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_step: int, options: dict[str, Any]
) -> None:
    whole = train(config(tmp_path / "whole", **options))
    with pytest.raises(KilledError):
        train(config(tmp_path / "broken", **options), after_step=die_after(at_step))
    assert not (tmp_path / "broken" / "model").exists()
    capsys.readouterr()
    resumed = train(config(tmp_path / "broken", **options))
    # States are saved after steps 2 and 4.
    assert (f"from step {at_step - at_step % 2}" in capsys.readouterr().out) == (at_step >= 2)
    assert weights(resumed).keys() == weights(whole).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_a_warm_up_with_adapters_changes_what_they_are_on_and_writes_a_whole_model(tmp_path: Path) -> None:
    whole = train(config(tmp_path / "whole", steps=1))
    start = {"start": str(whole), "learning_rate": 0.01, "demonstrations": ""}
    before, after = weights(whole), weights(train(config(tmp_path / "adapted", lora={"rank": 4}, **start)))
    assert before.keys() == after.keys()
    assert {name for name in after if not torch.equal(before[name], after[name])} == {name for name in after if "_proj" in name}
    with pytest.raises(SettingsError, match=r"sft.lora.targets names q, which is no linear layer of LlamaForCausalLM"):
        train(config(tmp_path / "wrong", lora={"rank": 4, "targets": ["q"]}, **start))


def test_a_loss_that_is_no_number_ends_the_warm_up_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(RunEndedError, match=r"fine-tuning step 2: the .* of the fine-tuning is nan, so no optimizer step was taken"):
        train(config(tmp_path, learning_rate=1e30, warmup_ratio=0.0))


def test_what_others_drew_before_changes_nothing_and_chance_is_seeded(tmp_path: Path) -> None:
    made: list[dict[str, torch.Tensor]] = []
    for drawn in (1, 2):
        torch.manual_seed(drawn)
        made.append(weights(train(config(tmp_path / str(drawn), steps=2, seed=5))))
        assert torch.initial_seed() == 5
    assert [name for name, tensor in made[0].items() if not torch.equal(tensor, made[1][name])] == []


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (weights(train(config(tmp_path / str(seed), seed=seed))) for seed in (0, 1))
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def saved(folder: ModelFolder, step: int) -> Path:
    directory = folder.begin_state(step)
    (directory / "weights").write_text(str(step))
    folder.complete_state(directory, step)
    return folder._work / f"step-{step:06d}"


def test_a_state_goes_once_the_next_one_is_whole(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "model", {"steps": 1}, SFT)
    assert folder.newest_state() is None
    first = saved(folder, 1)
    # Half a state, as a kill or a full disk leaves it.
    (folder.begin_state(2) / "weights").write_text("2")
    assert folder.newest_state() == (1, first / "model")
    second = saved(folder, 2)
    assert folder.newest_state() == (2, second / "model")
    assert not first.exists()


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    # A file where the directory should go cannot be written into.
    (tmp_path / ".model.sft").mkdir()
    (tmp_path / ".model.sft" / "step-000004").touch()
    with pytest.raises(CheckpointError, match=r"step-000004.* cannot be written"):
        train(config(tmp_path))
    (tmp_path / ".model.sft" / "step-000004").unlink()
    heard: list[int] = []
    train(config(tmp_path), after_step=lambda step, _steps, _result: heard.append(step))
    assert heard == [3, 4, 5, 6]


def test_a_record_that_cannot_be_written_is_one_clear_error_and_costs_nothing(tmp_path: Path) -> None:
    # A directory where the lines should go.
    (tmp_path / ".model.sft" / "sft.jsonl").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"sft.jsonl.* cannot be written"):
        train(config(tmp_path))
    (tmp_path / ".model.sft" / "sft.jsonl").rmdir()
    assert train(config(tmp_path)) == tmp_path / "model"


def test_a_damaged_state_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "model", {}, SFT)
    saved(folder, 1).joinpath("model", "weights").write_text("2")
    with pytest.raises(CheckpointError, match=r"does not have its checksum .* remove .*step-000001"):
        folder.newest_state()


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(config(tmp_path), after_step=die_after(3))
    with pytest.raises(SettingsError, match=r"was begun, but with other settings \(sft.learning_rate was 0.003 and is 0.001\)"):
        train(config(tmp_path, learning_rate=1e-3))


def test_a_finished_model_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(config(tmp_path))
    with pytest.raises(SettingsError, match=r"is finished, but with other settings \(sft.steps was 6 and is 7\): choose another"):
        train(config(tmp_path, steps=7))
    # Where and how often it is saved, and how it is computed, decides nothing.
    assert train(config(tmp_path, save_every=5, threads=1, micro_batch_rows=1, zero_stage=1, ranks=2)) == tmp_path / "model"


def test_a_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match=r"exists and was not made by `oprime sft`"):
        train(config(tmp_path))


def test_two_processes_do_not_make_the_same_model(tmp_path: Path) -> None:
    with ModelFolder(tmp_path / "model", {}, SFT).lock(), pytest.raises(BusyError, match="another `oprime sft`"):
        train(config(tmp_path))


def test_a_model_can_be_trained_on(tmp_path: Path) -> None:
    first = train(config(tmp_path, steps=2))
    second = train(config(tmp_path, start=str(first), output=str(tmp_path / "second")))
    assert not torch.equal(weights(first)["lm_head.weight"], weights(second)["lm_head.weight"])
    record = json.loads((second / "sft.json").read_text())
    assert record["identity"]["model to begin with"] == "model"


@pytest.mark.parametrize("lora", [{}, {"lora": {"rank": 4, "targets": ["q_proj"]}}])
def test_bfloat16_computes_in_half_precision_and_keeps_whole_weights(tmp_path: Path, lora: dict[str, Any]) -> None:
    half = config(tmp_path, steps=2, **lora)
    model = train(half.model_copy(update={"model": half.model.model_copy(update={"dtype": "bfloat16"})}))
    assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}
    trained = weights(model)["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(trained, trained.bfloat16().float()), "these are not the optimizer's own"
    assert json.loads((model / "config.json").read_text())["dtype"] == "float32"


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"have no section \[sft\]"):
        train(config(tmp_path).model_copy(update={"sft": None}))
    rows = config(tmp_path)
    with pytest.raises(SettingsError, match=r"sft.demonstrations is empty"):
        train(rows.model_copy(update={"tasks": rows.tasks.model_copy(update={"source": "rows"})}))
    with pytest.raises(SettingsError, match=r"the model to begin with are both .*name another sft.output"):
        train(config(tmp_path, demonstrations="demonstrations.jsonl"))
    with pytest.raises(SettingsError, match=r"from ./nowhere: .* Give a model directory"):
        train(config(tmp_path, start="./nowhere"))
    with pytest.raises(SettingsError, match=r"sft.offload_optimizer = true with sft.zero_stage = 0"):
        train(config(tmp_path, offload_optimizer=True))
    with pytest.raises(SettingsError, match=r"sft.ranks = 9 is more than the sft.batch_rows = 8 demonstrations of a step"):
        train(config(tmp_path, ranks=9))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r'sft.device = "cuda", but torch sees no GPU'):
        train(config(tmp_path, device="cuda"))


# Demonstrations of files


PROMPT = {"role": "user", "content": "3 +8 ?"}
ANSWER = {"role": "assistant", "content": "=1 #1"}


def write(path: Path, *conversations: Sequence[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in conversations))
    return str(path)


def test_a_model_learns_from_a_file(tmp_path: Path) -> None:
    base = train(config(tmp_path, steps=1))
    path = write(tmp_path / "demonstrations.jsonl", [PROMPT, ANSWER], [PROMPT], [ANSWER, PROMPT, ANSWER])
    sft = {"start": str(base), "output": str(tmp_path / "second"), "demonstrations": path, "steps": 30, "batch_rows": 2}
    with pytest.raises(SettingsError, match=r"has 1 bad row; correct them, or leave them out with sft.skip_bad_rows = true:\n.*row 2"):
        train(config(tmp_path, **sft))
    assert not (tmp_path / "second").exists()
    model = train(config(tmp_path, **sft, skip_bad_rows=True))
    # Two demonstrations with the same answer are learnt by heart.
    assert json.loads((model / "sft.json").read_text())["final_loss"] < 1.0


def test_epochs_are_counted_held_out_demonstrations_are_not_trained_on_and_all_of_it_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = train(config(tmp_path, steps=1))
    path = write(tmp_path / "d.jsonl", *([PROMPT, {"role": "assistant", "content": f"={number} #{number}"}] for number in range(10)))
    capsys.readouterr()
    sft = {"start": str(base), "output": str(tmp_path / "second"), "demonstrations": path, "epochs": 2, "batch_rows": 4}
    model = train(config(tmp_path, **sft, heldout_share=0.2, evaluate_every=2))
    said = capsys.readouterr().out
    # Eight are left to train on, twice: four steps of four.
    assert "4 steps of 4 demonstrations" in said
    assert "10 demonstrations in" in said
    assert said.count("heldout loss") == 3
    rows = [json.loads(line) for line in (model / "sft.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("evaluation", 0), ("step", 1), ("step", 2), ("evaluation", 2), ("step", 3), ("step", 4), ("evaluation", 4),
    ]  # fmt: skip
    assert rows[1]["tokens_per_second"] > 0
    # Each demonstration has six tokens, three of them the assistant's.
    assert (rows[1]["tokens"], rows[1]["trained_tokens"]) == (24, 12)
    facts = json.loads((model / "sft.json").read_text())
    assert facts["heldout_loss"] == pytest.approx(rows[-1]["heldout_loss"])
    # Trackers' files go along with the model.
    assert (model / "tracking" / "id").is_file()


def test_a_resumed_run_records_each_step_once_and_evaluates_as_the_undisturbed_one(tmp_path: Path) -> None:
    options = {"heldout_share": 0.5, "heldout_rows": 16, "evaluate_every": 3}
    whole = train(config(tmp_path / "whole", **options))
    with pytest.raises(KilledError):
        train(config(tmp_path / "broken", **options), after_step=die_after(3))
    resumed = train(config(tmp_path / "broken", **options))
    rows = [[json.loads(line) for line in (model / "sft.jsonl").read_text().splitlines()] for model in (whole, resumed)]
    numbers = [[(row["kind"], row["step"], row.get("loss"), row.get("heldout_loss")) for row in found] for found in rows]
    assert numbers[0] == numbers[1]
    assert [row[:2] for row in numbers[0] if row[0] == "evaluation"] == [("evaluation", step) for step in (0, 3, 6)]
    assert [name for name, tensor in weights(whole).items() if not torch.equal(tensor, weights(resumed)[name])] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demonstrations": "none.jsonl"}, r"sft.demonstrations = none.jsonl: no such file"),
        ({"max_tokens": 5}, r"row 1, messages: too long: 6 tokens are more than sft.max_tokens = 5; raise it, remove the row, or set"),
        ({"max_tokens": 5, "long_rows": "leave_out"}, "all of its demonstrations are longer than sft.max_tokens = 5"),
        ({"heldout_share": 0.9}, r"sft.heldout_share = 0.9 leaves none of the 2 demonstrations to train on"),
        ({"heldout": "d.jsonl", "heldout_share": 0.5}, "both say what is held out"),
        ({"heldout": "none.jsonl"}, r"sft.heldout = none.jsonl: no such file"),
        ({"max_tokens": 4000, "start": "gpt2"}, r"sft.max_tokens = 4000 is more than the 64 positions of .*gpt2: set sft.max_tokens=64"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_before_anything_is_written(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    base = tmp_path / "base"
    new_chain_model(0).save_pretrained(base)
    chain_tokenizer().save_pretrained(base)
    if options.get("start") == "gpt2":
        sizes: dict[str, Any] = {"vocab_size": 54, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64, "eos_token_id": 2}
        random_causal_lm(GPT2Config(**sizes), 0).save_pretrained(tmp_path / "gpt2")
        chain_tokenizer().save_pretrained(tmp_path / "gpt2")
        options = {**options, "start": str(tmp_path / "gpt2")}
    path = write(tmp_path / "d.jsonl", [PROMPT, ANSWER], [PROMPT, ANSWER])
    sft = {"start": str(base), "output": str(tmp_path / "second"), "demonstrations": path, "batch_rows": 2, **options}
    with pytest.raises(SettingsError, match=message):
        train(config(tmp_path, **sft))
    assert not (tmp_path / "second").exists()


def test_a_base_model_without_a_template_gets_one(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(eos="<|endoftext|>")
    template, tokenizer.chat_template = tokenizer.chat_template, None
    shape = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": 256, "bos_token_id": None, "eos_token_id": 256}
    random_causal_lm(Phi3Config(**shape, sliding_window=None), 0).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    path = write(tmp_path / "d.jsonl", [PROMPT, ANSWER])
    sft = {"start": str(tmp_path / "base"), "output": str(tmp_path / "second"), "demonstrations": path, "batch_rows": 1, "max_tokens": 100}
    with pytest.raises(SettingsError, match="has no chat template"):
        train(config(tmp_path, **sft, steps=1))
    with pytest.raises(SettingsError, match=r"sft.chat_template = .*none.jinja cannot be read"):
        train(config(tmp_path, **sft, steps=1, chat_template=str(tmp_path / "none.jinja")))
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    model = train(config(tmp_path, **sft, steps=1, chat_template=str(file)))
    assert AutoTokenizer.from_pretrained(model).chat_template == template
    file.write_text(template + " ")
    with pytest.raises(SettingsError, match=r"is finished, but with other settings \(checksum of sft.chat_template was"):
        train(config(tmp_path, **sft, steps=1, chat_template=str(file)))


def test_epochs_need_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sft.epochs = 2 without sft.demonstrations"):
        train(config(tmp_path, epochs=2))


def test_long_demonstrations_may_be_cut_which_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = train(config(tmp_path, steps=1))
    path = write(tmp_path / "d.jsonl", [PROMPT, ANSWER], [PROMPT, {"role": "assistant", "content": "=1 " * 30 + "#1"}])
    sft = {"start": str(base), "output": str(tmp_path / "second"), "demonstrations": path, "batch_rows": 2, "max_tokens": 10}
    train(config(tmp_path, **sft, long_rows="cut"))
    said = capsys.readouterr().out
    assert "demonstrations cut at sft.max_tokens = 10, which do not teach how they end: 1" in said
    # Six tokens of one, ten of the other.
    assert "16 tokens, of which the assistant says 10" in said


def test_the_result_stops_where_the_template_ends_a_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A base model: its own end token ends documents, and the template ends turns with another.
    tokenizer = byte_tokenizer(eos="<|endoftext|>")
    shape = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": 256, "bos_token_id": None, "eos_token_id": 256}
    random_causal_lm(Phi3Config(**shape, sliding_window=None), 0).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    path = write(tmp_path / "d.jsonl", [PROMPT, ANSWER, PROMPT, ANSWER])
    sft = {"start": str(tmp_path / "base"), "output": str(tmp_path / "second"), "demonstrations": path, "batch_rows": 1, "max_tokens": 200}
    model = train(config(tmp_path, **sft, steps=1))
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [258, 256]
    assert end_token_ids(AutoTokenizer.from_pretrained(model), model) == (258, 256)


def test_a_hidden_work_folder_left_behind_goes_when_the_result_is_found(tmp_path: Path) -> None:
    train(config(tmp_path))
    (tmp_path / ".model.sft").mkdir()
    train(config(tmp_path))
    assert not (tmp_path / ".model.sft").exists()
    shutil.rmtree(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
