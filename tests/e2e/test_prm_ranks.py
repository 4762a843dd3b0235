"""`oprime prm train` on several ranks: real processes under torch's launcher."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from e2e.command_line import DEMO, oprime, sets
from oprime.tasks.chain_tokenizer import chain_tokenizer
from oprime_cli.warm_up.start import new_chain_model


def train(folder: Path, name: str, **changes: object) -> subprocess.CompletedProcess[str]:
    settings = {"steps": 6, "batch_prompts": 6, "max_tokens": 40, "save_every": 2, "learning_rate": 1e-3, "beta": 0.5, "device": "cpu"}
    # A large epsilon keeps AdamW from turning the rounding of a gradient of 0 into a step.
    settings |= {"adam_eps": 1e-3, "output": str(folder / name), "gradient_clip": 10, **changes}
    given = {"model.path": str(folder / "start"), **{f"offline_prm.{key}": value for key, value in settings.items()}}
    return oprime("prm", "train", str(DEMO), *sets(given))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "dpo"])
def test_two_ranks_make_the_prm_of_one_and_go_on_bit_for_bit_after_a_failure(tmp_path: Path, loss: str) -> None:
    new_chain_model(0).save_pretrained(str(tmp_path / "start"))
    chain_tokenizer().save_pretrained(str(tmp_path / "start"))
    for name, options in (("one", {}), ("two", {"ranks": 2, "zero_stage": 3})):
        result = train(tmp_path, name, loss=loss, **options)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count(f"wrote {tmp_path / name}") == 1
    alone, together = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert alone.keys() == together.keys()
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-5)
    records = [json.loads((tmp_path / name / "offline_prm.json").read_text()) for name in ("one", "two")]
    assert records[0]["identity"] == records[1]["identity"]

    # A file where the state after step 4 should go: rank 0 fails, and both ranks end with its reason.
    obstacle = tmp_path / ".broken.offline_prm" / "step-000004"
    obstacle.parent.mkdir()
    obstacle.touch()
    failed = train(tmp_path, "broken", loss=loss, ranks=2, zero_stage=3)
    assert failed.returncode == 1
    assert "step-000004/.model.partial cannot be written" in failed.stderr
    obstacle.unlink()
    resumed = train(tmp_path, "broken", loss=loss, ranks=2, zero_stage=3)
    assert resumed.returncode == 0, resumed.stderr
    assert "from step 2" in resumed.stdout
    found = load_file(tmp_path / "broken" / "model.safetensors")
    assert [name for name, tensor in found.items() if not torch.equal(tensor, together[name])] == []
