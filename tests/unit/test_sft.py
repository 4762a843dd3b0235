"""Supervised warm-up: rows, loss, learning rate, resuming, and what it refuses."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Gemma2Config, Gemma3TextConfig, Lfm2Config, MambaConfig, Olmo3Config, Phi3Config

from oprime.core.types import ChatMessage
from oprime.lm.models import random_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.errors import CheckpointError, RunEndedError, SettingsError
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime.tasks.rows import BadRowError, RawRow
from oprime_cli.model_training.folder import SFT, ModelFolder
from oprime_cli.model_training.steps import Progress
from oprime_cli.run_config import RunConfig, SftSection
from oprime_cli.running.failures import RunBusyError
from oprime_cli.warm_up.data import Demonstration, Encoder, conversation_of_row, demonstration_of_row
from oprime_cli.warm_up.start import new_chain_model
from oprime_cli.warm_up.trainer import Trainer
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

    def at(self, position: int) -> Demonstration:
        return self._found[position % len(self._found)]


def trainer(*found: Demonstration, model: Any = None, engine: Any = None, **changes: Any) -> Trainer:
    """One that takes all of `found` in every step."""
    scored = TokenLogprobModel(new_chain_model(0) if model is None else model, 1024)
    settings = SftSection(**{"steps": 6, "batch_rows": len(found), "max_tokens": 40, **changes})
    return Trainer(engine or PlainEngine(scored), scored.packing, settings, Listed(*found), pad_id=0)


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
    assert trainer(*found).step(1) == pytest.approx(loss_on_padded_rows(new_chain_model(0), found), rel=1e-6)


def test_what_is_not_trained_on_is_context() -> None:
    one, other = document(9, [2, 3, 6, 7, 8]), document(9, [2, 3, 6, 7, 8])
    other.ids[4] = other.ids[4] % 50 + 3
    assert other.ids[4] != one.ids[4]
    # It changes what the tokens after it cost.
    assert trainer(one).step(1) != trainer(other).step(1)


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
    assert one.step(1) == pytest.approx(expected, abs=1e-5)


def test_a_model_with_a_state_in_place_of_attention_learns_on_padded_rows() -> None:
    found = [after_prompt(length) for length in (6, 24, 5)]
    model = random_causal_lm(MambaConfig(vocab_size=54, hidden_size=64, num_hidden_layers=2, state_size=8, pad_token_id=0), 0)
    expected = loss_on_padded_rows(model, found)
    one = trainer(*found, model=model)
    assert one._packing.refusal
    assert one.step(1) == pytest.approx(expected, abs=1e-5)


def moments(engine: PlainEngine) -> list[torch.Tensor]:
    # One step of AdamW moves every weight by the learning rate times its gradient's sign: gradients show in their moments.
    return [state["exp_avg"] for state in engine._optimizer.state.values()]


@pytest.mark.parametrize("split", [{"micro_batch_rows": 1, "max_tokens": 30}, {"micro_batch_tokens": 15}, {"packing": False}])
def test_how_a_step_is_split_changes_neither_loss_nor_gradients(split: dict[str, Any]) -> None:
    found = [document(9, [2, 3, 6, 7, 8]), after_prompt(7), after_prompt(30), after_prompt(5)]
    engines = [PlainEngine(TokenLogprobModel(new_chain_model(0), 1024, packing=split.get("packing", True))) for _ in range(2)]
    whole = trainer(*found, engine=engines[0], max_tokens=100).step(1)
    assert trainer(*found, engine=engines[1], **split).step(1) == pytest.approx(whole, rel=1e-5)
    for mine, other in zip(*map(moments, engines), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_ranks_share_a_step_of_which_one_may_have_nothing() -> None:
    found = [after_prompt(7), document(9, [2, 3, 6, 7, 8])]
    whole = PlainEngine(TokenLogprobModel(new_chain_model(0), 1024))
    expected = trainer(*found, engine=whole).step(1)
    engines = ranked_engines([TokenLogprobModel(new_chain_model(0), 1024) for _ in range(3)])
    ranks = [trainer(*found, engine=engine) for engine in engines]
    assert on_ranks([lambda rank=rank: rank.step(1) for rank in ranks]) == pytest.approx([expected] * 3, rel=1e-6)
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
    constant = SftSection(schedule="constant", warmup_ratio=0.0, learning_rate=1e-3).learning_rates()
    assert [constant.at(1), constant.at(300)] == [1e-3, 1e-3]


def test_progress_says_how_long_it_still_takes(capsys: pytest.CaptureFixture[str]) -> None:
    say = Progress(10, shown, clock=iter([0.0, 1.0, 30.0, 90.0]).__next__)
    for step in (11, 20, 40):
        say(step, 40, 0.5)
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


def die_after(step: int) -> Callable[[int, int, float], None]:
    def after_step(done: int, _steps: int, _loss: float) -> None:
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
    with pytest.raises(RunEndedError, match=r"warm-up step 2: the .* of the warm-up is nan, so no optimizer step was taken"):
        train(config(tmp_path, learning_rate=1e30, warmup_ratio=0.0))


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
    train(config(tmp_path), after_step=lambda step, _steps, _loss: heard.append(step))
    assert heard == [3, 4, 5, 6]


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
    with ModelFolder(tmp_path / "model", {}, SFT).lock(), pytest.raises(RunBusyError, match="another `oprime sft`"):
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
OTHER_PROMPT = {"role": "user", "content": "5 -2 ?"}
OTHER_ANSWER = {"role": "assistant", "content": "=3 #3"}


def row(**value: Any) -> RawRow:
    return RawRow(origin="d.jsonl, row 3", value=value)


def encoder() -> Encoder:
    return Encoder(chain_tokenizer(), (END,))


def said(found: Demonstration, *, trained: bool) -> str:
    tokenizer: Any = chain_tokenizer()
    return tokenizer.decode(found.ids[found.is_trained == trained])


def test_every_turn_of_the_assistant_is_trained_on_with_its_end_token() -> None:
    found = demonstration_of_row(row(messages=[PROMPT, ANSWER, OTHER_PROMPT, OTHER_ANSWER]), encoder(), 40)
    tokenizer: Any = chain_tokenizer()
    assert tokenizer.decode(found.ids) == "3 +8 ? =1 #1 <eos> 5 -2 ? =3 #3 <eos>"
    assert said(found, trained=True) == "=1 #1 <eos> =3 #3 <eos>"
    # What stands before an answer is what the generator samples after.
    for answers, messages in ((0, [PROMPT]), (1, [PROMPT, ANSWER, OTHER_PROMPT])):
        asked = render_prompt(tokenizer, [ChatMessage(**message) for message in messages])
        assert found.ids[: len(asked)].tolist() == asked
        assert found.is_trained[: len(asked)].sum() == 3 * answers
        assert found.is_trained[len(asked)]


def test_an_answer_that_nothing_comes_before_is_context() -> None:
    found = demonstration_of_row(row(messages=[ANSWER, PROMPT, OTHER_ANSWER]), encoder(), 40)
    assert (said(found, trained=False), said(found, trained=True)) == ("=1 #1 <eos> 3 +8 ?", "=3 #3 <eos>")


def test_a_turn_that_is_written_otherwise_once_others_follow_is_context() -> None:
    tokenizer: Any = chain_tokenizer()
    # As templates do that drop the reasoning of earlier turns.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}{{ m.content.split(' ')[-1] }} <eos> "
        "{% elif m.role == 'assistant' %}{{ m.content }} <eos> {% else %}{{ m.content }} {% endif %}{% endfor %}"
    )
    found = demonstration_of_row(row(messages=[PROMPT, ANSWER, OTHER_PROMPT, OTHER_ANSWER]), Encoder(tokenizer, (END,)), 40)
    assert (said(found, trained=False), said(found, trained=True)) == ("3 +8 ? #1 <eos> 5 -2 ?", "=3 #3 <eos>")


def test_a_template_without_an_end_token_gets_one_and_what_follows_the_end_is_cut() -> None:
    tokenizer: Any = chain_tokenizer()
    messages = (ChatMessage(role="user", content="3 +8 ?"), ChatMessage(role="assistant", content="=1 #1"))
    for template in ("{% for m in messages %}{{ m.content }} {% endfor %}", "{% for m in messages %}{{ m.content }} {% endfor %}<eos> ? ?"):
        tokenizer.chat_template = template.replace("<eos> ? ?", "{% if messages[-1].role == 'assistant' %}<eos> ? ?{% endif %}")
        found = Encoder(tokenizer, (END,)).encode(messages)
        assert tokenizer.decode(found.ids) == "3 +8 ? =1 #1 <eos>"


def test_what_a_template_writes_after_an_end_token_leads_to_the_next_turn() -> None:
    tokenizer: Any = chain_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos> ? {% endif %}{% endfor %}"
    found = demonstration_of_row(row(messages=[PROMPT, ANSWER, OTHER_PROMPT, OTHER_ANSWER]), Encoder(tokenizer, (END,)), 40)
    assert (said(found, trained=False), said(found, trained=True)) == ("3 +8 ? ? 5 -2 ?", "=1 #1 <eos> =3 #3 <eos>")


def test_the_schema_of_eurus_2_sft_is_read() -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    assert conversation_of_row(row(system="Think.", conversations=turns)) == (
        ChatMessage(role="system", content="Think."),
        ChatMessage(role="user", content="2 + 2?"),
        ChatMessage(role="assistant", content="4"),
    )
    # A parquet file with both columns fills the other with nothing.
    assert len(conversation_of_row(row(system=None, messages=None, conversations=turns))) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": []}, "messages: empty messages"),
        ({}, "messages: empty messages"),
        ({"messages": [PROMPT]}, r"messages\[0\].role: wrong role: the last turn must be the assistant's"),
        ({"messages": [ANSWER]}, "messages: missing prompt"),
        ({"messages": [{"role": "user", "content": "hello"}, ANSWER]}, "messages: no usable conversation: .* hello is no word"),
        (
            {"messages": [PROMPT, {"role": "assistant", "content": "=1 " * 40}]},
            "messages: too long: 44 tokens are more than sft.max_tokens = 40",
        ),
        ({"conversations": [{"from": "martian", "value": "x"}]}, r"conversations\[0\].role: wrong role: must be one of"),
        ({"conversations": ["x"]}, "conversations: wrong conversation"),
    ],
)
def test_a_bad_demonstration_is_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRowError, match=f"d.jsonl, row 3, {message}"):
        demonstration_of_row(row(**value), encoder(), 40)


def test_a_template_that_hides_where_the_answer_begins_is_refused() -> None:
    tokenizer: Any = chain_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }} {% for m in messages %}{{ m.content }} {% endfor %}"
    with pytest.raises(BadRowError, match="the response cannot be told apart"):
        demonstration_of_row(row(messages=[PROMPT, ANSWER]), Encoder(tokenizer, (END,)), 40)


def test_a_model_learns_from_a_file(tmp_path: Path) -> None:
    base = train(config(tmp_path, steps=1))
    path = tmp_path / "demonstrations.jsonl"
    lines = [{"messages": [PROMPT, ANSWER]}, {"messages": [PROMPT]}, {"messages": [ANSWER, PROMPT, ANSWER]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft = {"start": str(base), "output": str(tmp_path / "second"), "demonstrations": str(path), "steps": 30, "batch_rows": 2}
    with pytest.raises(SettingsError, match=r"has 1 bad row; correct them, or leave them out with sft.skip_bad_rows = true:\n.*row 2"):
        train(config(tmp_path, **sft))
    model = train(config(tmp_path, **sft, skip_bad_rows=True))
    # Two demonstrations with the same answer are learnt by heart.
    assert json.loads((model / "sft.json").read_text())["final_loss"] < 1.0


def test_a_hidden_work_folder_left_behind_goes_when_the_result_is_found(tmp_path: Path) -> None:
    train(config(tmp_path))
    (tmp_path / ".model.sft").mkdir()
    train(config(tmp_path))
    assert not (tmp_path / ".model.sft").exists()
    shutil.rmtree(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
