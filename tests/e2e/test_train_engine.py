"""The engine learns the same whatever is merely a matter of speed: ranks, micro-batches, ZeRO stage, a restart."""

import json
import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from e2e.forked import run_ranks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

WORKER = "e2e.train_engine_worker"
STAGES = (0, 1, 2, 3)
MICRO_BATCHES = (1, 3, 7)
RANKS = (1, 2)
TIMEOUT_S = 600


@dataclass(frozen=True)
class Outcome:
    results: dict[str, Any]
    weights: dict[str, Tensor]

    def weights_of(self, name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): value for key, value in self.weights.items() if key.startswith(f"{name}/")}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(mode: str, out: Path, *, ranks: int = 1) -> Outcome:
    """Run the worker once per rank, without torchrun: alone for one rank, and by environment variables for more."""
    run_ranks(WORKER, (mode, out), ranks=ranks, port=free_port(), output=out, timeout_s=TIMEOUT_S)
    name = "reference" if mode == "reference" else f"{mode}-{ranks}"
    return Outcome(json.loads((out / f"{name}.json").read_text(encoding="utf-8")), load_file(out / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train_engine")


@pytest.fixture(scope="module")
def plain(out: Path) -> Outcome:
    """A plain training loop over the whole batch, without DeepSpeed and with full vocabulary rows."""
    return run("reference", out)


@pytest.fixture(scope="module")
def engines(out: Path) -> dict[int, Outcome]:
    return {ranks: run("engine", out, ranks=ranks) for ranks in RANKS}


@pytest.fixture(params=RANKS, ids=["1 rank", "2 ranks"])
def engine(request: pytest.FixtureRequest, engines: dict[int, Outcome]) -> tuple[int, Outcome]:
    return request.param, engines[request.param]


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor], *, tolerance: float) -> None:
    assert one.keys() == other.keys()
    assert one
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("micro_batch", MICRO_BATCHES)
def test_training_equals_a_plain_loop_however_it_is_split(
    engine: tuple[int, Outcome], plain: Outcome, stage: int, micro_batch: int
) -> None:
    name = f"unclipped stage {stage} micro {micro_batch}"
    ours, expected = engine[1].results[name], plain.results["unclipped"]
    assert ours["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert ours["norms"] == pytest.approx(expected["norms"], abs=1e-5)
    assert_same_weights(engine[1].weights_of(name), plain.weights_of("unclipped"), tolerance=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_padded_rows_train_as_packed_ones_do(engine: tuple[int, Outcome], plain: Outcome, stage: int) -> None:
    name = f"padded stage {stage}"
    assert engine[1].results[name]["losses"] == pytest.approx(plain.results["unclipped"]["losses"], abs=1e-5)
    assert_same_weights(engine[1].weights_of(name), plain.weights_of("unclipped"), tolerance=1e-5)
    packed = engine[1].weights_of(f"unclipped stage {stage} micro 3")
    assert_same_weights(engine[1].weights_of(name), packed, tolerance=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_entropies_come_on_every_rank_and_send_gradient(engines: dict[int, Outcome], engine: tuple[int, Outcome], stage: int) -> None:
    ours, expected = engine[1].results[f"scoring stage {stage}"], engines[1].results["scoring stage 0"]
    assert ours["entropy"] == pytest.approx(expected["entropy"], abs=1e-4)
    assert ours["entropy"] > 0
    assert ours["entropy_norm"] == pytest.approx(expected["entropy_norm"], abs=1e-5)
    assert ours["entropy_norm"] > 0


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_equals_a_plain_loop_and_the_norm_is_from_before_it(engine: tuple[int, Outcome], plain: Outcome, stage: int) -> None:
    name = f"clipped stage {stage} micro 3"
    ours, expected = engine[1].results[name], plain.results["clipped"]
    assert min(expected["norms"]) > 0.05
    assert ours["norms"] == pytest.approx(expected["norms"], abs=1e-5)
    assert ours["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert_same_weights(engine[1].weights_of(name), plain.weights_of("clipped"), tolerance=1e-5)


def test_the_plain_loop_learns_and_clipping_matters(plain: Outcome) -> None:
    losses = plain.results["unclipped"]["losses"]
    assert losses[-1] < losses[0] - 0.01
    difference = plain.weights["clipped/lm_head.weight"] - plain.weights["unclipped/lm_head.weight"]
    assert float(difference.abs().max()) > 1e-4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_optimizer_in_cpu_memory_computes_the_same(engine: tuple[int, Outcome], plain: Outcome, stage: int) -> None:
    name = f"offloaded stage {stage}"
    assert engine[1].results[name]["norms"] == pytest.approx(plain.results["unclipped"]["norms"], abs=1e-5)
    assert_same_weights(engine[1].weights_of(name), plain.weights_of("unclipped"), tolerance=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_training_sees_bit_for_bit_what_scoring_sees(engine: tuple[int, Outcome], stage: int) -> None:
    scoring = engine[1].results[f"scoring stage {stage}"]
    assert scoring["same"]
    assert scoring["sum"] == pytest.approx(engine[1].results["scoring stage 0"]["sum"], abs=1e-5)
    assert scoring["shapes_of_nothing"] == [0, 0]


@pytest.mark.parametrize("stage", STAGES)
def test_tied_weights_come_once_under_their_hugging_face_name(engine: tuple[int, Outcome], stage: int) -> None:
    names = engine[1].results[f"scoring stage {stage}"]["names"]
    assert names[0] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in names
    assert "lm_head.weight" in engine[1].weights_of("unclipped stage 0 micro 1")
    assert len(names) == len(set(names))


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_changes_not_a_bit(engine: tuple[int, Outcome], stage: int) -> None:
    assert_same_weights(engine[1].weights_of(f"resumed {stage}"), engine[1].weights_of(f"straight {stage}"), tolerance=0)
    draws = {engine[1].results[f"resumed {other} random"] for other in STAGES}
    assert draws != {torch.rand(1, generator=torch.Generator().manual_seed(99)).item()}, "the random state was not restored"


def test_a_checkpoint_of_two_ranks_continues_on_one_and_at_another_stage(out: Path, engines: dict[int, Outcome]) -> None:
    crossed = run("cross", out)
    for stage in (0, 3):
        assert_same_weights(crossed.weights_of(f"crossed {stage}"), engines[2].weights_of("straight 3"), tolerance=1e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_checkpoint_from_before_the_first_step_starts_over(engine: tuple[int, Outcome], stage: int) -> None:
    fresh, straight = engine[1].weights_of(f"fresh stage {stage}"), engine[1].weights_of(f"unclipped stage {stage} micro 3")
    assert_same_weights(fresh, straight, tolerance=0)


def test_a_checkpoint_holds_no_pickle(out: Path, engines: dict[int, Outcome]) -> None:
    assert engines
    suffixes = {file.suffix for file in (out / "saved-2-3").rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_learns_from_steps_too_small_for_bfloat16(engine: tuple[int, Outcome], stage: int) -> None:
    result = engine[1].results[f"bfloat16 stage {stage}"]
    assert result["types"] == ["torch.bfloat16"]
    # 10 steps of 1e-5 on weights of about 0.02, whose bfloat16 spacing is about 1e-4: one step alone rounds away.
    assert 5e-5 < result["moved"] < 2e-4


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_engines_give_the_float32_master_weights_before_the_first_step_and_after_others(
    engine: tuple[int, Outcome], stage: int
) -> None:
    result = engine[1].results[f"bfloat16 stage {stage}"]
    assert result["types of masters"] == ["torch.float32"]
    assert result["masters at the start"]
    assert result["masters rounded"]


def test_bfloat16_checkpoints_hold_float32_master_weights_and_survive_a_round_trip(out: Path, engines: dict[int, Outcome]) -> None:
    assert engines
    saved = load_file(out / "half-2-3" / "state-00000.safetensors")
    again = load_file(out / "half-again-2" / "state-00000.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert_same_weights(saved, again, tolerance=0)
    master = saved["master/lm_head.weight"]
    assert not torch.equal(master, master.bfloat16().float())


def test_ranks_exchange_bytes_and_numbers(engines: dict[int, Outcome]) -> None:
    bytes_arrive = {"broadcast": True, "broadcast nothing": True}
    assert engines[1].results["talking"] == bytes_arrive | {"gathered": [""], "gathered nothing": [""], "sum": [1, 0]}
    two = {"gathered": ["", "rank"], "gathered nothing": ["", ""], "sum": [2, 1]}
    assert engines[2].results["talking"] == bytes_arrive | two
    assert engines[2].results["others gather"] == [True]


@pytest.mark.parametrize("stage", STAGES)
def test_an_infinite_gradient_is_refused_and_changes_nothing(engine: tuple[int, Outcome], stage: int) -> None:
    assert "no optimizer step was taken" in engine[1].results[f"infinite stage {stage}"]
    assert engine[1].results[f"unharmed stage {stage}"]


def test_misuse_is_named(engine: tuple[int, Outcome]) -> None:
    results = engine[1].results
    assert results["nothing"].startswith("ValueError: train_step got no micro-batches")
    assert results["another model"].startswith("CheckpointError: ")
    assert "was saved from another model: only the checkpoint has exp_avg/lm_head.weight" in results["another model"]
    assert results["no checkpoint"].startswith("CheckpointError: ")
    assert "engine.json cannot be read" in results["no checkpoint"]
    for name in ("no directory", "full disk"):
        assert results[name].startswith("CheckpointError: ")
        assert "cannot be written" in results[name]
        assert "MiB are free" in results[name]


def test_the_reference_is_finite(plain: Outcome) -> None:
    assert all(math.isfinite(number) for result in plain.results.values() for number in (*result["norms"], *result["losses"]))
