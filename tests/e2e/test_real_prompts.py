"""A run on text as people write it: word problems through a byte-level tokenizer and a chat template, vLLM and the `math` verifier."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, PreTrainedTokenizerFast

from e2e.command_line import metric_rows, oprime, processes_of, sets, summary
from oprime.lm.models import random_causal_lm

STEPS = 2
GROUPS = 6
GROUP_SIZE = 4
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ raise_exception('an answer comes last') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "Reason step by step and put the final answer in \\boxed{}."
# Short, middling and long ones, so that their prefills never fill a batch evenly.
PROBLEMS = (
    (
        "A bakery sells rolls in bags of {a}. On Saturday morning it filled {b} bags, and after lunch it filled {c} bags more. "
        "How many rolls did it put into bags on that day?",
        lambda a, b, c: a * (b + c),
    ),
    (
        "Mira is saving for a bicycle. She already has {a} euros in a tin, and from now on she puts {b} euros into it at the end of "
        "every week, because she delivers newspapers on three streets near her school. Her grandmother adds {c} euros once, as a "
        "present for her birthday. Nothing is taken out. How many euros are in the tin after ten weeks?",
        lambda a, b, c: a + 10 * b + c,
    ),
    (
        "A ferry crosses a lake between two villages. It leaves the northern pier with {a} passengers and {b} bicycles on board. "
        "At a small island in the middle of the lake, half an hour later, {c} further passengers come aboard, and nobody leaves. "
        "The captain counts everyone at the island, as she does on each crossing, and writes the number into a blue book that lies "
        "beside the wheel; her son counts the wheels of all the bicycles, two on each, and writes that number below. The weather "
        "is calm, and the ferry reaches the southern pier in time. What is the sum of the two numbers in the book?",
        lambda a, b, c: a + c + 2 * b,
    ),
)


def write_model(directory: Path) -> None:
    """A random Llama of two layers that reads bytes. Not a Qwen2: docs/decisions/0006."""
    vocabulary = {symbol: number for number, symbol in enumerate((*SPECIAL, *sorted(ByteLevel.alphabet())))}
    inner = Tokenizer(BPE(vocabulary, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = ByteLevelDecoder()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=SPECIAL[0], eos_token=SPECIAL[2], additional_special_tokens=list(SPECIAL)
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=vocabulary[SPECIAL[2]],
        pad_token_id=vocabulary[SPECIAL[0]],
    )
    random_causal_lm(config, 0).save_pretrained(directory)


def write_tasks(path: Path, rows: int) -> None:
    """Word problems of 130 to 700 characters with their answers, each with a system turn; the chat template refuses every fourth."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text, answer = PROBLEMS[number % len(PROBLEMS)]
            values = {"a": 12 + number, "b": 3 + number % 5, "c": 7 + 2 * number}
            example = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "\\boxed{2}"}] if number % 4 == 3 else []
            row = {
                "data_source": "word_problems",
                "prompt": [{"role": "system", "content": SYSTEM}, *example, {"role": "user", "content": text.format(**values)}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(answer(**values))},
            }
            file.write(json.dumps(row) + "\n")


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_run_on_word_problems_passes_over_what_the_template_refuses_and_trains_on_whole_batches(tmp_path: Path) -> None:
    model, train, heldout, config = (tmp_path / name for name in ("model", "train.jsonl", "heldout.jsonl", "run.toml"))
    write_model(model)
    write_tasks(train, 24)
    write_tasks(heldout, 5)
    config.write_text("", encoding="utf-8")
    settings = {
        "run.name": "words",
        "run.directory": str(tmp_path),
        "run.steps": STEPS,
        "run.evaluate_every": 0,
        "model.path": str(model),
        "tasks.train": str(train),
        "tasks.heldout": str(heldout),
        "tasks.skip_bad_rows": True,
        "sampling.group_size": GROUP_SIZE,
        "sampling.max_prompt_tokens": 896,
        "sampling.max_response_tokens": 24,
        "staleness.max_staleness": 1,
        "coordinator.groups_per_batch": GROUPS,
        # A random model is always wrong.
        "coordinator.filter.enabled": False,
        "generator.cpu_cache_gib": 0.25,
        "learner.threads": 1,
        "prm.threads": 1,
    }
    result = oprime("train", str(config), *sets(settings), timeout_s=280)
    assert result.returncode == 0, result.stdout + result.stderr
    run = tmp_path / "words"
    document = summary(run)
    assert document["steps"] == STEPS
    assert document["ledger_closed"]
    assert document["ledger"]["trained"] == STEPS * GROUPS * GROUP_SIZE
    assert document["rollouts"] > 0
    assert document["staleness_max"] <= 1
    # vLLM's log-probs are the learner's, but for kernels and weight versions.
    assert all(row["mismatch_kl_nats"] < 1e-3 for row in metric_rows(run, "step"))
    passed_over = [line for line in (run / "logs" / "coordinator.log").read_text().splitlines() if "prompt_passed_over" in line]
    assert passed_over
    assert all("roles system, user, assistant, user: an answer comes last" in line for line in passed_over)
    assert processes_of(run) == []
