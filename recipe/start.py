"""The recipe's starting model, from nothing: tokenizer, shape, and training on what many teachers wrote.

Each of these teachers misunderstands other phrasings, so the model learns to read, to calculate and to keep the form, and of each phrasing
that people differ about it. `make recipe-start` writes the model in half precision to deploy/recipe/start.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime.tasks.prose.rows import demonstration_row
from oprime.tasks.prose.teacher import Teacher
from oprime.tasks.prose.tokenizer import BEGIN, END, PAD, prose_tokenizer
from recipe.command import oprime, settings, write_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START = Path("deploy/recipe/start")
POSITIONS = 256
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
"""3.0 M weights with the embeddings of some 800 tokens; a head size of 64, which vLLM can serve on a CPU."""
FIRST_TEACHER = 1000
"""Seed of the first of many teachers: none of them is one that a recipe is likely to choose."""
OF_ONE_TEACHER = 8
"""Demonstrations by one teacher, one after the other."""
TRAINING: dict[str, Any] = {"steps": 900, "batch_rows": 32, "learning_rate": 2e-3, "warmup_ratio": 0.1, "save_every": 50, "threads": 2}


def make_start(config: Path, output: Path, work: Path, training: dict[str, Any]) -> None:
    """Train the starting model in `work` with the steps of `training`, and write it to `output`."""
    blank, trained, demonstrations = work / "blank", work / "trained", work / "many-teachers.jsonl"
    if not blank.exists():
        new_model(blank)
    chosen = TRAINING | training
    number = chosen["steps"] * chosen["batch_rows"]
    write_lines(demonstrations, itertools.islice(many_teachers(), number))
    values = {"start": blank, "demonstrations": demonstrations, **chosen}
    oprime("sft", str(config), *settings({"model.path": trained, **{f"sft.{name}": value for name, value in values.items()}}))
    write_in_half_precision(trained, output, chosen)


def many_teachers() -> Iterator[dict[str, Any]]:
    """Demonstrations by one teacher after another."""
    for number in itertools.count():
        teacher = Teacher(FIRST_TEACHER + number, wide=True)
        for place in range(OF_ONE_TEACHER):
            yield demonstration_row(*teacher.demonstration(number * OF_ONE_TEACHER + place))


def new_model(directory: Path) -> None:
    """Write tokenizer and random weights."""
    from transformers import LlamaConfig

    from oprime.lm.models import random_causal_lm

    tokenizer: PreTrainedTokenizerFast = prose_tokenizer(POSITIONS)
    ids: dict[str, Any] = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in (("pad", PAD), ("bos", BEGIN), ("eos", END))
    }
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        **ids,
        **SHAPE,
    )
    random_causal_lm(shape, 0).save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


def write_in_half_precision(trained: Path, output: Path, training: dict[str, Any]) -> None:
    """Copy a model with bfloat16 weights, and a note of what made it."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (trained / file).exists():
            shutil.copy(trained / file, output / file)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(trained / "model.safetensors").items()}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)
    note = {"command": "make recipe-start", "demonstrations of many teachers": training["steps"] * training["batch_rows"], **training}
    (output / "made-by.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
