"""Supervised warm-up: packing, loss, learning rate, resuming, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from oprime.core.types import ChatMessage
from oprime.runtime.errors import CheckpointError, SettingsError
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime.tasks.rows import BadRowError, RawRow
from oprime_cli.run_config import RunConfig, SftSection
from oprime_cli.running.failures import RunBusyError
from oprime_cli.warm_up.data import Demonstration, Encoder, conversation_of_row, demonstration_of_row, packed_places, packed_rows
from oprime_cli.warm_up.state import SftFolder
from oprime_cli.warm_up.training import Trainer, new_chain_model, one_cycle, train

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


def settings(**changes: Any) -> SftSection:
    return SftSection(**{"steps": 6, "batch_rows": 4, "max_tokens": 40, **changes})


def trainer(seed: int = 0, **changes: Any) -> Trainer:
    return Trainer(new_chain_model(seed), settings(**changes), pad_id=0, dtype="float32")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def parameters(one: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one._model.parameters()]


def documents(*lengths: int, prompt: int = 2, seed: int = 0) -> list[Demonstration]:
    generator = np.random.default_rng(seed)
    return [Demonstration(generator.integers(3, 54, length).astype(np.int32), prompt) for length in lengths]


# Packing


def test_documents_share_rows_first_fit() -> None:
    assert packed_places([5, 6, 4, 3, 2], 10) == [[0, 2], [1, 3], [4]]


def test_a_packed_row_restarts_positions_and_shows_each_token_its_own_document_only() -> None:
    rows = packed_rows([documents(3, 2), documents(4)], pad_id=0)
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert rows.document.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
    assert rows.is_response.tolist() == [[False, False, True, False, False], [False, False, True, True, False]]
    assert rows.sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_neighbours_in_a_row_do_not_leak(attention: str) -> None:
    one = trainer()
    one._model.set_attn_implementation(attention)
    probe, others, quiet = documents(9, 7, seed=0), documents(9, 7, seed=1), documents(8)[0]
    with torch.no_grad():
        first = one._logprobs(packed_rows([[probe[0], quiet, probe[1]]], 0), packs=True)
        second = one._logprobs(packed_rows([[others[0], quiet, others[1]]], 0), packs=True)
        alone = one._logprobs(packed_rows([[quiet]], 0), packs=False)
    # Seven response tokens of the document before it, then its own six.
    torch.testing.assert_close(first[7:13], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(first[7:13], second[7:13], rtol=0, atol=1e-6)
    assert (first[:7] - second[:7]).abs().max() > 0.01


def test_packing_changes_no_gradient() -> None:
    demonstrations = documents(9, 7, 8, 12)
    packed, single = trainer(max_tokens=40), trainer(max_tokens=12, micro_batch_rows=1)
    losses = [one.step(0, demonstrations) for one in (packed, single)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # One step of AdamW moves every weight by the learning rate times its gradient's sign: compare the gradients' moments.
    for mine, other in zip(packed.optimizer.state.values(), single.optimizer.state.values(), strict=True):
        torch.testing.assert_close(mine["exp_avg"], other["exp_avg"], rtol=1e-4, atol=1e-7)


def test_a_model_whose_documents_leak_is_trained_one_demonstration_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    one = trainer()
    backbone: Any = one._model.base_model

    def leak(_module: Any, _inputs: Any, output: Any) -> Any:
        # What a recurrent layer would do: carry a sum over all tokens of the row.
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.cumsum(1)
        return output

    with backbone.register_forward_hook(leak):
        one.choose_packing(documents(9, 7))
    assert "one demonstration per row" in capsys.readouterr().out
    assert [rows.input_ids.shape[0] for rows in one._micro_batches(documents(9, 7, 8))] == [3]
    kept = trainer()
    kept.choose_packing(documents(9, 7))
    assert [rows.input_ids.shape[0] for rows in kept._micro_batches(documents(9, 7, 8))] == [1]


# Loss


def test_only_the_response_is_learnt() -> None:
    one = trainer()
    (document,) = documents(8, prompt=5)
    embeddings: Any = one._model.get_output_embeddings()
    loss = one.step(0, [document])
    with torch.no_grad():
        before: Any = new_chain_model(0)
        logits = before(torch.from_numpy(document.ids.astype(np.int64))[None]).logits[0].float().log_softmax(-1)
    expected = -sum(float(logits[place - 1, document.ids[place]]) for place in (5, 6, 7)) / 3
    assert loss == pytest.approx(expected, rel=1e-5)
    assert embeddings.weight.shape == (54, 64)


def test_the_loss_is_the_mean_over_all_response_tokens_of_the_step() -> None:
    short, long = documents(4, 12)
    one_by_one = [trainer().step(0, [document]) for document in (short, long)]
    # 2 and 10 response tokens.
    assert trainer().step(0, [short, long]) == pytest.approx((2 * one_by_one[0] + 10 * one_by_one[1]) / 12, rel=1e-5)


def test_the_learning_rate_makes_one_cycle() -> None:
    rates = [one_cycle(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[10] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(4e-6)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert one_cycle(0, 100, 1.0, 0.0) == 1.0
    assert one_cycle(0, 1, 1.0, 0.0) == 1.0


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


@pytest.mark.parametrize("at_step", [1, 2, 5])
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_was_never_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_step: int
) -> None:
    whole = train(config(tmp_path / "whole"))
    with pytest.raises(KilledError):
        train(config(tmp_path / "broken"), after_step=die_after(at_step))
    assert not (tmp_path / "broken" / "model").exists()
    capsys.readouterr()
    resumed = train(config(tmp_path / "broken"))
    # States are saved after steps 2 and 4.
    assert (f"from step {at_step - at_step % 2}" in capsys.readouterr().out) == (at_step >= 2)
    assert weights(resumed).keys() == weights(whole).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (weights(train(config(tmp_path / str(seed), seed=seed))) for seed in (0, 1))
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    folder, one = SftFolder(tmp_path / "model", {"steps": 1}), trainer()
    one.step(0, documents(8))
    with folder.lock():
        folder.save(1, one._model, one.optimizer)
        saved = parameters(one)
        one.step(1, documents(8))
        # A directory where the file should go cannot be written over.
        (tmp_path / ".model.sft" / "state.half").mkdir()
        with pytest.raises(CheckpointError, match=r"state.safetensors cannot be written"):
            folder.save(2, one._model, one.optimizer)
        assert folder.load(one._model, one.optimizer) == 1
    assert all(torch.equal(now, then) for now, then in zip(parameters(one), saved, strict=True))


def test_a_damaged_state_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder, one = SftFolder(tmp_path / "model", {}), trainer()
    with folder.lock():
        (tmp_path / ".model.sft" / "state.safetensors").write_bytes(b"nonsense")
        with pytest.raises(CheckpointError, match=r"is damaged .*: remove .* to begin anew"):
            folder.load(one._model, one.optimizer)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(config(tmp_path), after_step=die_after(3))
    with pytest.raises(SettingsError, match=r"was begun, but with other settings \(sft.learning_rate was 0.003 and is 0.001\)"):
        train(config(tmp_path, learning_rate=1e-3))


def test_a_finished_model_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(config(tmp_path))
    with pytest.raises(SettingsError, match=r"is finished, but with other settings \(sft.steps was 6 and is 7\): choose another"):
        train(config(tmp_path, steps=7))
    # Where and how often it is saved changes no weight.
    assert train(config(tmp_path, save_every=5, threads=1)) == tmp_path / "model"


def test_a_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match=r"exists and was not made by `oprime sft`"):
        train(config(tmp_path))


def test_two_processes_do_not_make_the_same_model(tmp_path: Path) -> None:
    with SftFolder(tmp_path / "model", {}).lock(), pytest.raises(RunBusyError, match="another `oprime sft`"):
        train(config(tmp_path))


def test_a_model_can_be_trained_on(tmp_path: Path) -> None:
    first = train(config(tmp_path, steps=2))
    second = train(config(tmp_path, start=str(first), output=str(tmp_path / "second")))
    assert not torch.equal(weights(first)["lm_head.weight"], weights(second)["lm_head.weight"])
    record = json.loads((second / "sft.json").read_text())
    assert record["identity"]["model to begin with"] == "model"


def test_bfloat16_computes_in_half_precision_and_keeps_whole_weights(tmp_path: Path) -> None:
    half = config(tmp_path, steps=2)
    model = train(half.model_copy(update={"model": half.model.model_copy(update={"dtype": "bfloat16"})}))
    assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r'sft.device = "cuda", but torch sees no GPU'):
        train(config(tmp_path, device="cuda"))


# Demonstrations of files


PROMPT = {"role": "user", "content": "3 +8 ?"}
ANSWER = {"role": "assistant", "content": "=1 #1"}


def row(**value: Any) -> RawRow:
    return RawRow(origin="d.jsonl, row 3", value=value)


def encoder() -> Encoder:
    return Encoder(chain_tokenizer(), (END,))


def test_the_response_is_the_last_turn_with_its_end_token() -> None:
    tokenizer: Any = chain_tokenizer()
    found = demonstration_of_row(row(messages=[PROMPT, ANSWER, PROMPT, ANSWER]), encoder(), 40)
    assert tokenizer.decode(found.ids[: found.prompt_tokens]) == "3 +8 ? =1 #1 <eos> 3 +8 ?"
    assert tokenizer.decode(found.ids[found.prompt_tokens :]) == "=1 #1 <eos>"


def test_a_template_without_an_end_token_gets_one_and_what_follows_the_end_is_cut() -> None:
    tokenizer: Any = chain_tokenizer()
    messages = (ChatMessage(role="user", content="3 +8 ?"), ChatMessage(role="assistant", content="=1 #1"))
    for template in ("{% for m in messages %}{{ m.content }} {% endfor %}", "{% for m in messages %}{{ m.content }} {% endfor %}<eos> ? ?"):
        tokenizer.chat_template = template.replace("<eos> ? ?", "{% if messages[-1].role == 'assistant' %}<eos> ? ?{% endif %}")
        found = Encoder(tokenizer, (END,)).encode(messages)
        assert tokenizer.decode(found.ids) == "3 +8 ? =1 #1 <eos>"


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
