"""`oprime sft` on several ranks: real processes under torch's launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from e2e.command_line import DEMO, oprime, sets

STEPS = 6


def warm_up(model: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    # A large epsilon keeps AdamW from turning the rounding of a gradient of 0 into a step.
    settings = {"steps": STEPS, "batch_rows": 12, "micro_batch_rows": 1, "save_every": 2, "adam_eps": 1e-3, "device": "cpu", **changes}
    return oprime("sft", str(DEMO), *sets({"model.path": str(model), **{f"sft.{name}": value for name, value in settings.items()}}))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def test_ranks_make_the_model_of_one_process(tmp_path: Path) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for model, options in ((one, {}), (two, {"ranks": 2, "zero_stage": 3})):
        result = warm_up(model, **options)
        assert result.returncode == 0, result.stderr
        # One rank speaks for all.
        assert result.stdout.count(f"wrote {model}") == 1
    alone = weights(one)
    assert weights(two).keys() == alone.keys()
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-6)
    records = [json.loads((model / "sft.json").read_text()) for model in (one, two)]
    assert records[0]["identity"] == records[1]["identity"]


@pytest.mark.slow
def test_ranks_go_on_bit_for_bit_after_a_failure(tmp_path: Path) -> None:
    two, broken = (tmp_path / name for name in ("two", "broken"))
    assert warm_up(two, ranks=2, zero_stage=3).returncode == 0
    # A file where the state after step 4 should go: rank 0 fails, and both ranks end with its reason.
    obstacle = tmp_path / ".broken.sft" / "step-000004"
    obstacle.parent.mkdir()
    obstacle.touch()
    failed = warm_up(broken, ranks=2, zero_stage=3)
    assert failed.returncode == 1
    assert "oprime: rank 0: " in failed.stderr
    assert "step-000004/.model.partial cannot be written" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not broken.exists()

    obstacle.unlink()
    resumed = warm_up(broken, ranks=2, zero_stage=3)
    assert resumed.returncode == 0, resumed.stderr
    assert "from step 2" in resumed.stdout
    whole = weights(two)
    assert [name for name, tensor in weights(broken).items() if not torch.equal(tensor, whole[name])] == []


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_like_the_undisturbed_one(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    turns = [[(f"{number} +8 ?", f"={(number + 8) % 10} #{(number + 8) % 10}")] * (1 + number % 2) for number in range(10)]
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
                    ]
                }
            )
            + "\n"
            for pairs in turns
        )
    )
    base = tmp_path / "base"
    assert warm_up(base, steps=1).returncode == 0
    document = {
        "model": {"path": str(base)},
        "sft": {
            "demonstrations": str(rows), "epochs": 40, "batch_rows": 4, "max_tokens": 40, "save_every": 7, "heldout_share": 0.2,
            "evaluate_every": 10, "device": "cpu", "ranks": 2, "zero_stage": 2, "threads": 1,
        },
        "tracking": {"tensorboard": "off"},
    }  # fmt: skip
    path = tmp_path / "sft.toml"
    path.write_text(tomli_w.dumps(document))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = oprime("sft", str(path), *sets({"sft.output": str(whole)}))
    assert undisturbed.returncode == 0, undisturbed.stderr

    # Killed without a word, wherever it is, once a state is there.
    command = [sys.executable, "-m", "oprime_cli.main", "sft", str(path), "--set", f"sft.output={broken}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / ".broken.sft").glob("step-*/model/sft.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not broken.exists()
    while "another `oprime sft`" in (resumed := oprime("sft", str(path), *sets({"sft.output": str(broken)}))).stderr:
        # Its ranks notice that their launcher is gone.
        assert time.monotonic() < deadline
    assert resumed.returncode == 0, resumed.stderr
    assert ", from step " in resumed.stdout
    same = weights(whole)
    assert [name for name, tensor in weights(broken).items() if not torch.equal(tensor, same[name])] == []
    numbers = [
        [(row["step"], row.get("loss"), row.get("heldout_loss")) for row in map(json.loads, (model / "sft.jsonl").read_text().splitlines())]
        for model in (whole, broken)
    ]
    assert numbers[0] == numbers[1]
