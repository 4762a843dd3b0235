"""The engine trains adapters as plain PEFT does, whatever the ranks and the ZeRO stage, and a restart changes nothing."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, equal
from torch.testing import assert_close

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

WORKER = Path(__file__).parent / "lora_engine_worker.py"
STAGES = (0, 1, 2, 3)
TIMEOUT_S = 600


def run(mode: str, out: Path, ranks: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "LOCAL_RANK", *group}}
    paths = os.pathsep.join([str(WORKER.parents[1]), clean.get("PYTHONPATH", "")])
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(out)],
            env={**clean, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **({"RANK": str(rank), **group} if ranks > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [worker.communicate(timeout=TIMEOUT_S)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora_engine")
    run("plain", folder, 1)
    for ranks in (1, 2):
        run("engine", folder, ranks)
    return folder


Outcome = tuple[dict[str, Any], dict[str, Tensor]]
"""Numbers, and weights."""


@pytest.fixture(params=[1, 2], ids=["1 rank", "2 ranks"])
def engine(request: pytest.FixtureRequest, out: Path) -> Outcome:
    return outcome(out, f"engine-{request.param}")


def outcome(out: Path, name: str) -> Outcome:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8")), load_file(out / f"{name}.safetensors")


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    found = {key.removeprefix(f"{name}/"): tensor for key, tensor in weights.items() if key.startswith(f"{name}/")}
    assert found
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_train_as_in_plain_peft_and_merge_to_the_same(out: Path, engine: Outcome, stage: int) -> None:
    (results, weights), (expected, theirs) = engine, outcome(out, "plain")
    assert min(expected["norms"]) > 0.05
    assert results[f"norms {stage}"] == pytest.approx(expected["norms"], rel=1e-4)
    for form in ("adapters", "merged"):
        ours, peft = part(weights, f"{stage} {form}"), part(theirs, form)
        assert ours.keys() == peft.keys()
        for name, tensor in ours.items():
            assert_close(tensor, peft[name], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert results[f"apart {stage}"] < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_changes_not_a_bit(engine: Outcome, stage: int) -> None:
    straight, resumed = (part(engine[1], f"{name} {stage} adapters") for name in ("straight", "resumed"))
    assert all(equal(tensor, resumed[name]) for name, tensor in straight.items())


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_holds_adapters_alone(out: Path, stage: int) -> None:
    saved = load_file(out / f"saved-2-{stage}" / "state-00000.safetensors")
    assert all(".lora_" in name for name in saved)
    # Two layers of seven linear maps, A and B, with master weights and two moments.
    assert len(saved) == 2 * 7 * 2 * 3


@pytest.mark.parametrize("stage", [0, 3])
def test_adapters_on_a_bfloat16_model_learn_and_leave_it_alone(engine: Outcome, stage: int) -> None:
    found = engine[0][f"half {stage}"]
    assert found["types"] == ["torch.bfloat16"]
    assert found["base"]
    # 10 steps of 2e-4 on adapters of about 0.3, whose bfloat16 spacing is about 1e-3: one step alone rounds away.
    assert found["moved"] > 1e-3
