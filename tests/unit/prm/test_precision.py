"""A PRM that is trained in bfloat16: how much of its rewards is rounding, and rewards in float32 beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from oprime.core.reward_noise import reward_noise
from oprime.core.token_rows import ragged
from oprime.core.types import Batch
from oprime.lm.frozen import FrozenModel
from oprime.runtime.settings import ModelSection
from oprime_prm.app import sampled_with
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.noise_meter import NoiseMeter
from oprime_prm.prm_copy import PrmCopy
from plain_engine import Exchange, PlainEngine, on_ranks
from rollouts import CONTENTS, Emitted, rows_of
from rounding_engine import RoundingEngine
from tiny_models import batch_of, tiny_model, with_weights_in

BETA = 0.5


def exact_model() -> FrozenModel:
    return FrozenModel(tiny_model(), chunk_tokens=7)


def rounded_model() -> FrozenModel:
    return FrozenModel(with_weights_in(tiny_model(), torch.bfloat16), chunk_tokens=7)


def prm_of(engine: PlainEngine, *, copy: PrmCopy | None = None, **settings: object) -> ImplicitPrm:
    """In bfloat16; with `copy`, a PRM and a reference in float32 score."""
    section = PrmSection.model_validate({"learning_rate": 1e-3, "beta": BETA, "micro_batch_rollouts": 5, **settings})
    frozen = rounded_model() if copy is None else exact_model()
    own = section.reference == "sft"
    noise = NoiseMeter(engine, section, exact_model, exact_model if own else None) if section.measure_noise_every else None
    reference = (lambda micro: frozen.logprobs(micro.rows)) if own else sampled_with
    return ImplicitPrm(engine, CONTENTS, reference, section, pad_id=0, total_steps=10, copy=copy, noise=noise)


def exact_log_ratios(engine: PlainEngine, batch: Batch) -> list[torch.Tensor]:
    """By the engine's master weights, as they are now."""
    prm, rows = exact_model(), rows_of(batch)
    prm.load_weights(engine.weights(master=True))
    return list(ragged(prm.logprobs(rows) - exact_model().logprobs(rows), rows.is_trained))


def rewards_of(prm: ImplicitPrm, batch: Batch) -> tuple[list[torch.Tensor], dict[str, float]]:
    emitted = Emitted()
    metrics = prm.process(batch, emitted).metrics
    return [torch.from_numpy(row) for row in emitted.of(batch).rollouts], metrics


def test_noise_is_what_rewards_differ_by_from_those_of_the_master_weights_in_float32() -> None:
    engine, batch = RoundingEngine(), batch_of(1)
    rewards, metrics = rewards_of(prm_of(engine, noise_rollouts=len(batch.rollouts)), batch)
    exact = exact_log_ratios(engine, batch)
    found = reward_noise([row.double() / BETA for row in rewards], [row.double() for row in exact])
    assert found.nats > 1e-4
    assert metrics["prm_reward_noise_nats"] == pytest.approx(found.nats, rel=1e-3)
    assert metrics["prm_reward_signal_to_noise"] == pytest.approx(found.signal_to_noise, rel=1e-3)
    assert metrics["prm_noise_return"] == pytest.approx(BETA * found.largest_return, rel=1e-3)


def test_noise_is_measured_on_as_many_rollouts_as_the_settings_say() -> None:
    batch = batch_of(1)
    _, metrics = rewards_of(prm_of(engine := RoundingEngine(), noise_rollouts=1, micro_batch_rollouts=3), batch)
    rewards, _ = rewards_of(prm_of(RoundingEngine(), measure_noise_every=0, micro_batch_rollouts=3), batch)
    exact = exact_log_ratios(engine, batch)
    each = [reward_noise([row.double() / BETA], [ratio.double()]).nats for row, ratio in zip(rewards, exact, strict=True)]
    assert any(metrics["prm_reward_noise_nats"] == pytest.approx(nats, rel=1e-3) for nats in each)


@pytest.mark.parametrize("update", ["double_forward", "single_forward", "reverse", "offline"])
def test_noise_is_measured_by_the_version_that_scores(update: str) -> None:
    engine = RoundingEngine()
    prm = prm_of(engine, update=update, noise_rollouts=100, measure_noise_every=1, loss="dpo" if update == "reverse" else "ce")
    rewards_of(prm, batch_of(1))
    before = exact_log_ratios(engine, batch_of(2))
    rewards, metrics = rewards_of(prm, batch_of(2))
    exact = exact_log_ratios(engine, batch_of(2)) if update == "double_forward" else before
    found = reward_noise([row.double() / BETA for row in rewards], [row.double() for row in exact])
    assert metrics["prm_reward_noise_nats"] == pytest.approx(found.nats, rel=1e-3)


def test_noise_is_measured_at_the_start_and_every_so_many_steps_and_kept_by_a_checkpoint() -> None:
    engine = RoundingEngine()
    prm = prm_of(engine, measure_noise_every=2)
    seen = [rewards_of(prm, batch_of(step))[1]["prm_reward_noise_nats"] for step in (1, 2, 3, 4)]
    assert seen[0] == seen[1] != seen[2] == seen[3]
    again = prm_of(RoundingEngine(), measure_noise_every=2)
    again.load_state(json.loads(json.dumps(prm.state())))
    assert rewards_of(again, batch_of(4))[1]["prm_reward_noise_nats"] == seen[3]
    unmeasured = prm_of(RoundingEngine(), measure_noise_every=0)
    assert "prm_reward_noise_nats" not in rewards_of(unmeasured, batch_of(1))[1]
    assert unmeasured.state() == {"version": 1}


def test_the_sampled_log_probs_are_taken_as_they_are() -> None:
    engine, batch = RoundingEngine(), batch_of(1)
    rewards, metrics = rewards_of(prm_of(engine, reference="policy", noise_rollouts=100), batch)
    prm, rows = exact_model(), rows_of(batch)
    prm.load_weights(engine.weights(master=True))
    # The tests' behaviour log-probs are -1.
    exact = [row.double() + 1 for row in ragged(prm.logprobs(rows), rows.is_trained)]
    assert metrics["prm_reward_noise_nats"] == pytest.approx(reward_noise([row.double() / BETA for row in rewards], exact).nats, rel=1e-3)


def test_all_ranks_know_what_rank_0_has_measured() -> None:
    exchange = Exchange(2)
    ranks = [prm_of(RoundingEngine(exchange, rank)) for rank in range(2)]

    def process(prm: ImplicitPrm, emitted: Emitted) -> float:
        return prm.process(batch_of(1), emitted).metrics["prm_reward_noise_nats"]

    emitted = Emitted()
    first, second = on_ranks([lambda prm=prm: process(prm, emitted) for prm in ranks])
    assert first == second > 0


def differences(rewards: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    return max(float((row - BETA * ratio).abs().max()) for row, ratio in zip(rewards, exact, strict=True))


@pytest.mark.parametrize("update", ["double_forward", "single_forward", "reverse", "offline"])
def test_a_float32_copy_scores_with_the_master_weights_of_the_version_that_the_mode_wants(update: str) -> None:
    engine = RoundingEngine()
    settings = {"update": update, "loss": "dpo" if update == "reverse" else "ce", "measure_noise_every": 0}
    prm = prm_of(engine, copy=PrmCopy(exact_model()), **settings)
    rewards_of(prm, batch_of(1))
    before = exact_log_ratios(engine, batch_of(2))
    rewards, _ = rewards_of(prm, batch_of(2))
    exact = exact_log_ratios(engine, batch_of(2)) if update == "double_forward" else before
    assert differences(rewards, exact) < 1e-5
    # In bfloat16 the same rewards are far from that, unless PRM and reference are the same.
    other = prm_of(RoundingEngine(), **settings)
    rewards_of(other, batch_of(1))
    assert (differences(rewards_of(other, batch_of(2))[0], exact) > 1e-4) == (update != "offline")


def test_a_copy_has_the_version_of_a_skipped_step_and_of_a_checkpoint(tmp_path: Path) -> None:
    engine, copy = RoundingEngine(), PrmCopy(exact_model())
    prm = prm_of(engine, copy=copy, measure_noise_every=0)
    rewards_of(prm, batch_of(1))
    prm.skip()
    assert copy.version == prm.version == 2
    other = PrmCopy(exact_model())
    prm_of(engine, copy=other, measure_noise_every=0).load_state({"version": 2})
    assert other.version == 2
    rows = rows_of(batch_of(3))
    np.testing.assert_array_equal(copy.model.logprobs(rows), other.model.logprobs(rows))


def test_published_versions_lose_nothing_that_training_or_scores_have() -> None:
    found = {
        (dtype, score): (section.scores_in(model), section.published_in(model))
        for dtype in ("bfloat16", "float32")
        for score in ("auto", "bfloat16", "float32")
        for model in [ModelSection.model_validate({"path": "model", "dtype": dtype})]
        for section in [PrmSection.model_validate({"score_dtype": score})]
    }
    assert found == {
        ("bfloat16", "auto"): ("bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16"): ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"): ("float32", "float32"),
        ("float32", "auto"): ("float32", "float32"),
        ("float32", "bfloat16"): ("bfloat16", "float32"),
        ("float32", "float32"): ("float32", "float32"),
    }
