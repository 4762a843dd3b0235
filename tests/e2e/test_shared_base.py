"""Trainers with adapters on the CPUs of one host hold the model below them once: all map its file, and none changes a page of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from oprime.lm.models import random_causal_lm

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

WORKER = Path(__file__).parent / "shared_base_worker.py"


def write_model(directory: Path) -> Path:
    """8 MB of float32, on the disk: pages that wait to be written count as changed."""
    config = LlamaConfig(
        vocab_size=500, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4
    )
    random_causal_lm(config, 0).save_pretrained(directory)
    with (directory / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    return directory


def begin(model: Path, dtype: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, str(WORKER), str(model), dtype], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


def said(process: "subprocess.Popen[str]") -> dict[str, int]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise AssertionError(f"the worker ended with {process.wait()}")


def asked(process: "subprocess.Popen[str]") -> dict[str, int]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def test_two_trainers_and_their_references_hold_the_model_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    processes = [begin(model, "float32") for _ in range(2)]
    try:
        for process in processes:
            said(process)
        both = [asked(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for found in both:
        # The reference of each is on the same pages; a page or two belong to the file's header.
        # Rows of embeddings that nobody asked for may be on the disk alone.
        assert 0.9 * found["model"] <= found["Rss"] < 1.1 * found["model"]
        assert found["Anonymous"] == 0
        assert found["Pss"] < 0.6 * found["model"]


def test_a_model_that_computes_in_another_type_than_its_files_is_a_copy(tmp_path: Path) -> None:
    process = begin(write_model(tmp_path / "model"), "bfloat16")
    try:
        found = said(process)
    finally:
        process.kill()
        process.communicate()
    # The files' mapping is gone with what was read from it.
    assert found["Rss"] < 0.5 * found["model"]
