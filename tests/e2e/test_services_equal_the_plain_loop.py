"""With staleness bound 0, six services over gRPC and Redis compute what one readable loop computes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from e2e.command_line import metric_rows, oprime
from e2e.conftest import small_run
from golden.prime_in_one_file import Settings, train
from oprime.runtime.settings import ChainSection

STEPS = 3
GROUPS = 6
PRM_LEARNING_RATE = 3e-4
CRITIC_LEARNING_RATE = 3e-4
ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic (the keys' bias), so that Adam does not
blow that noise up to a full step."""


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("estimator", "ranks", "zero_stage", "temperature"),
    [("rloo", 1, 0, 1.0), ("rloo", 2, 3, 1.0), ("ppo", 1, 0, 1.0), ("ppo", 2, 3, 1.0), ("remax", 1, 0, 0.8)],
    ids=["1 rank", "2 ranks, ZeRO 3", "PPO", "PPO, 2 ranks, ZeRO 3", "ReMax, temperature 0.8"],
)
def test_weights_after_three_steps_agree_to_a_millionth(
    estimator: str, ranks: int, zero_stage: int, temperature: float, starting_model: Path, tmp_path: Path
) -> None:
    # What remains is float32 rounding: the services compute log-probs in chunks and sum gradients in another order.
    result = oprime(
        *small_run(
            starting_model,
            tmp_path,
            "synchronous",
            **{
                "run.steps": STEPS,
                "algorithm.estimator": estimator,
                "sampling.temperature": temperature,
                "coordinator.groups_per_batch": GROUPS,
                "staleness.max_staleness": 0,
                "store.keep_versions": 10,
                **{f"{service}.ranks": ranks for service in ("learner", "prm")},
                **{f"{model}.zero_stage": zero_stage for model in ("learner", "prm", "critic")},
                "critic.learning_rate": CRITIC_LEARNING_RATE,
                "critic.adam_eps": ADAM_EPS,
                "prm.learning_rate": PRM_LEARNING_RATE,
                "learner.adam_eps": ADAM_EPS,
                "prm.adam_eps": ADAM_EPS,
            },
        )
    )
    assert result.returncode == 0, result.stdout + result.stderr
    policy, prm, critic = train(
        str(starting_model),
        Settings(
            steps=STEPS,
            estimator=estimator,
            temperature=temperature,
            critic_learning_rate=CRITIC_LEARNING_RATE,
            groups_per_batch=GROUPS,
            prm_learning_rate=PRM_LEARNING_RATE,
            adam_eps=ADAM_EPS,
            chain=ChainSection(operations=2, heldout_problems=8),
        ),
    )
    run = tmp_path / "synchronous"
    steps = metric_rows(run, "step")
    assert max(row["staleness_max"] for row in steps) == 0
    assert max(abs(row["mismatch_kl_nats"]) for row in steps) < 1e-4
    ledger = json.loads((run / "summary.json").read_text())["ledger_states"]
    assert ledger.get("baseline", 0) == (STEPS * GROUPS if estimator == "remax" else 0)
    assert json.loads((run / "summary.json").read_text())["ledger_closed"]
    start = load_file(starting_model / "model.safetensors")
    before = start | {key.replace("model.", "backbone."): tensor for key, tensor in start.items()}
    loops = {"weights": policy, "prm_weights": prm} | ({"critic": critic} if estimator == "ppo" else {})
    for name, model in loops.items():
        trained = trained_weights(run, name)
        apart = {key: float((trained[key] - parameter.detach()).abs().max()) for key, parameter in model.named_parameters()}
        assert max(apart.values()) < 1e-6, f"{name}: {apart}"
        moved = max(float((trained[key] - before[key]).abs().max()) for key in trained.keys() & before.keys())
        assert moved > 1e-4, f"{name} did not train"


def trained_weights(run: Path, name: str) -> dict[str, Tensor]:
    """Weights after the last step: as published, or the critic's from the checkpoint."""
    if name != "critic":
        return load_file(run / name / f"v{STEPS:08d}" / "model.safetensors")
    saved = load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "critic" / "state-00000.safetensors")
    return {key.removeprefix("master/"): tensor for key, tensor in saved.items() if key.startswith("master/")}
