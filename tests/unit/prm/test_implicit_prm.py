"""The PRM's share of a train step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guide import example, one_more_file
from oprime.core import prm_losses
from oprime.core.token_rows import TokenRows, ragged
from oprime.core.types import Batch, TokenFloats, VerifiedGroup
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime_prm.app import sampled_with
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from plain_engine import PlainEngine, on_ranks, ranked_engines
from rollouts import CONTENTS, Emitted, content, rows_of
from tiny_models import batch_in_turns, batch_of, plain_logprobs, tiny_model


class CountingEngine(PlainEngine):
    """Counts the rollouts that pass through the model, and the optimizer steps."""

    scored = trained = steps = 0

    def logprobs(self, rows: TokenRows) -> torch.Tensor:
        self.scored += len(rows.input_ids)
        return super().logprobs(rows)

    def train_step(self, micro_batches: Sequence[TokenRows], *arguments: Any, **options: Any) -> float:
        self.steps += 1
        self.trained += sum(len(rows.input_ids) for rows in micro_batches)
        return super().train_step(micro_batches, *arguments, **options)


def implicit_prm(engine: PlainEngine | None = None, **settings: object) -> ImplicitPrm:
    section = PrmSection.model_validate({"learning_rate": 1e-2, "beta": 0.5, "micro_batch_rollouts": 5, **settings})
    engine = engine or PlainEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7), gradient_clip=section.gradient_clip)
    frozen = FrozenModel(tiny_model(), chunk_tokens=7)
    reference = (lambda micro: frozen.logprobs(micro.rows)) if section.reference == "sft" else sampled_with
    return ImplicitPrm(engine, CONTENTS, reference, section, pad_id=0, total_steps=10)


@dataclass(frozen=True, kw_only=True)
class Processed:
    """What the PRM says of a batch, and what it emits."""

    prm_version: int
    metrics: Mapping[str, float]
    process_rewards: Sequence[TokenFloats]
    baseline_process_rewards: Sequence[TokenFloats]


def process(prm: ImplicitPrm, batch: Batch) -> Processed:
    return process_on_ranks([prm], batch)


def process_on_ranks(ranks: Sequence[ImplicitPrm], batch: Batch) -> Processed:
    """What rank 0 says, and what all of them emit."""
    emitted = Emitted()
    scored = on_ranks([lambda prm=prm: prm.process(batch, emitted) for prm in ranks])[0]
    rewards = emitted.of(batch)
    return Processed(
        prm_version=scored.prm_version,
        metrics=scored.metrics,
        process_rewards=rewards.rollouts,
        baseline_process_rewards=rewards.baselines,
    )


@pytest.mark.parametrize("update", ["double_forward", "single_forward", "offline"])
def test_a_pair_loss_is_never_quietly_a_cross_entropy(update: str) -> None:
    with pytest.raises(ValueError, match=f'prm.loss = "dpo" with prm.update = "{update}": a pair loss compares with scores'):
        implicit_prm(update=update, loss="dpo")


def test_before_any_update_prm_and_reference_agree_so_all_rewards_are_zero() -> None:
    scored = process(implicit_prm(update="offline"), batch_of(1))
    assert all(np.allclose(rewards, 0.0, atol=1e-6) for rewards in scored.process_rewards)
    assert scored.prm_version == 0


@pytest.mark.parametrize("update", ["double_forward", "single_forward", "offline"])
def test_a_prm_that_equals_its_reference_is_as_accurate_as_a_coin(update: str) -> None:
    # Half of the rollouts are right, so neither sign alone would do.
    assert process(implicit_prm(update=update), batch_of(1)).metrics["prm_accuracy"] == 0.5


def test_there_is_one_reward_per_response_token_in_the_order_of_the_rollouts() -> None:
    batch = batch_of(1)
    scored = process(implicit_prm(), batch)
    assert [len(rewards) for rewards in scored.process_rewards] == [one.rollout.trained_tokens for one in batch.rollouts]


def test_double_forward_scores_with_the_updated_version() -> None:
    scored = process(implicit_prm(update="double_forward"), batch_of(1))
    assert scored.prm_version == 1
    assert any(np.abs(rewards).max() > 1e-4 for rewards in scored.process_rewards)


def test_single_forward_scores_with_the_version_before_the_update() -> None:
    prm = implicit_prm(update="single_forward")
    first = process(prm, batch_of(1))
    assert first.prm_version == 0
    assert all(np.allclose(rewards, 0.0, atol=1e-6) for rewards in first.process_rewards)
    second = process(prm, batch_of(2))
    assert second.prm_version == 1
    assert any(np.abs(rewards).max() > 1e-4 for rewards in second.process_rewards)


def test_single_forward_scores_a_batch_as_offline_scoring_after_the_same_updates_does() -> None:
    trained, frozen = implicit_prm(update="single_forward"), implicit_prm(update="double_forward")
    process(trained, batch_of(1))
    process(frozen, batch_of(1))
    once = process(trained, batch_of(2)).process_rewards
    frozen._settings = frozen._settings.model_copy(update={"update": "offline"})
    twice = process(frozen, batch_of(2)).process_rewards
    for one, other in zip(once, twice, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_updates_lower_the_loss_and_teach_the_sign_of_the_outcome() -> None:
    prm = implicit_prm()
    batch = batch_of(1)
    metrics = [process(prm, batch).metrics for _ in range(15)]
    assert metrics[0]["prm_loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert metrics[-1]["prm_loss"] < 0.8 * metrics[0]["prm_loss"]
    assert metrics[-1]["prm_scored_accuracy"] == 1.0
    assert metrics[-1]["prm_score_mean_right"] > metrics[-1]["prm_score_mean_wrong"]


BALANCED = {"difficulty_offset": True, "rarity_weight": True}


@pytest.mark.parametrize("settings", [BALANCED, {"loss": "prefix_value", "beta": 10.0}, {"loss": "prefix_value", "beta": 10.0, **BALANCED}])
def test_balanced_losses_and_prefix_values_teach_the_sign_of_the_outcome(settings: dict[str, Any]) -> None:
    prm = implicit_prm(**settings)
    batch = batch_of(1)
    metrics = [process(prm, batch).metrics for _ in range(25)]
    # The first two of each group of four are right: no offset, and equal weights.
    assert metrics[0]["prm_loss"] == pytest.approx(np.logaddexp(0, 5.0 if "loss" in settings else 0.0), abs=1e-4)
    assert metrics[-1]["prm_loss"] < 0.8 * metrics[0]["prm_loss"]
    assert metrics[-1]["prm_scored_accuracy"] == 1.0


def test_micro_batches_change_no_balanced_prefix_values() -> None:
    settings = {"loss": "prefix_value", "beta": 10.0, **BALANCED}
    whole = process(implicit_prm(micro_batch_rollouts=12, **settings), batch_of(1))
    for split in ({"micro_batch_rollouts": 1}, {"micro_batch_tokens": 20}):
        found = process(implicit_prm(**{**settings, **split}), batch_of(1))
        assert found.metrics["prm_loss"] == pytest.approx(whole.metrics["prm_loss"], abs=1e-5)
        for one, other in zip(whole.process_rewards, found.process_rewards, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("micro_batch_rollouts", [1, 4, 12, 100])
def test_micro_batches_change_nothing(micro_batch_rollouts: int) -> None:
    whole = process(implicit_prm(micro_batch_rollouts=12), batch_of(1))
    split = process(implicit_prm(micro_batch_rollouts=micro_batch_rollouts), batch_of(1))
    for one, other in zip(whole.process_rewards, split.process_rewards, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert split.metrics["prm_loss"] == pytest.approx(whole.metrics["prm_loss"], abs=1e-6)


def test_several_updates_per_batch_take_the_groups_in_order() -> None:
    scored = process(implicit_prm(updates_per_batch=3), batch_of(1))
    assert scored.prm_version == 1
    with pytest.raises(ValueError, match="updates_per_batch"):
        process(implicit_prm(updates_per_batch=4), batch_of(1))


def test_rewards_are_beta_times_the_log_ratio() -> None:
    small, large = implicit_prm(beta=0.5), implicit_prm(beta=0.5)
    batch = batch_of(1)
    process(small, batch)
    process(large, batch)
    for prm, beta in ((small, 0.5), (large, 1.0)):
        prm._settings = prm._settings.model_copy(update={"update": "offline", "beta": beta})
    for one, double in zip(process(small, batch).process_rewards, process(large, batch).process_rewards, strict=True):
        torch.testing.assert_close(torch.tensor(2 * one), torch.tensor(double), atol=1e-6, rtol=1e-5)


PAIR_LOSSES = ["dpo", "bon_acc", "bon_rm"]


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_pair_losses_teach_which_responses_are_right(loss: str) -> None:
    prm = implicit_prm(loss=loss, update="reverse")
    batch = batch_of(1)
    metrics = [process(prm, batch).metrics for _ in range(15)]
    assert metrics[-1]["prm_loss"] < 0.8 * metrics[0]["prm_loss"]
    assert metrics[-1]["prm_pairwise_accuracy"] == 1.0
    assert metrics[-1]["prm_score_mean_right"] > metrics[-1]["prm_score_mean_wrong"]


def test_reverse_scores_with_the_version_before_the_update() -> None:
    prm = implicit_prm(loss="dpo", update="reverse")
    assert process(prm, batch_of(1)).prm_version == 0
    assert process(prm, batch_of(2)).prm_version == 1


def test_the_first_dpo_loss_compares_scores_of_zero() -> None:
    assert process(implicit_prm(loss="dpo", update="reverse"), batch_of(1)).metrics["prm_loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_the_first_best_of_k_loss_is_weighed_by_outcome() -> None:
    # Two right rollouts of four: weights 4 * 1 and 4 * (1/2)^3; the mean is 2.25.
    metrics = process(implicit_prm(loss="bon_acc", update="reverse"), batch_of(1)).metrics
    assert metrics["prm_loss"] == pytest.approx(2.25 * np.log(2), abs=1e-5)


@pytest.mark.parametrize("loss", ["ce", *PAIR_LOSSES])
@pytest.mark.parametrize("reference", ["sft", "policy"])
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_with_every_loss_and_reference_micro_batches_change_nothing(loss: str, reference: str, updates_per_batch: int) -> None:
    settings = {"loss": loss, "reference": reference, "update": "reverse", "updates_per_batch": updates_per_batch}
    whole, split = implicit_prm(micro_batch_rollouts=100, **settings), implicit_prm(micro_batch_rollouts=1, **settings)
    for step in (1, 2):
        one, other = process(whole, batch_of(step)), process(split, batch_of(step))
        assert other.metrics == pytest.approx(one.metrics, rel=1e-3, abs=2e-5)
        for first, second in zip(one.process_rewards, other.process_rewards, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("loss", ["ce", *PAIR_LOSSES])
@pytest.mark.parametrize("reference", ["sft", "policy"])
def test_with_every_loss_and_reference_ranks_change_nothing(loss: str, reference: str) -> None:
    settings = {"loss": loss, "reference": reference, "update": "reverse", "updates_per_batch": 3}
    alone = implicit_prm(**settings)
    expected = [process(alone, batch_of(step, baselines=True)) for step in (1, 2)]

    engines = ranked_engines([TokenLogprobModel(tiny_model(), chunk_tokens=7) for _ in range(2)], gradient_clip=10.0)
    ranks = [implicit_prm(engine, **settings) for engine in engines]
    for one, step in zip(expected, (1, 2), strict=True):
        other = process_on_ranks(ranks, batch_of(step, baselines=True))
        assert other.metrics == pytest.approx(one.metrics, rel=1e-3, abs=2e-5)
        assert len(other.baseline_process_rewards) == 3
        for first, second in zip(
            [*one.process_rewards, *one.baseline_process_rewards],
            [*other.process_rewards, *other.baseline_process_rewards],
            strict=True,
        ):
            np.testing.assert_allclose(first, second, atol=1e-4)


def test_with_the_policy_as_reference_a_reward_is_measured_against_the_sampled_log_probs() -> None:
    batch = batch_of(1)
    # The test's behaviour log-probs are -1: the reward is beta * (log pi_prm + 1).
    scored = process(implicit_prm(update="offline", reference="policy"), batch)
    frozen = FrozenModel(tiny_model(), chunk_tokens=7)
    rows = rows_of(batch)
    for rewards, logprobs in zip(scored.process_rewards, ragged(frozen.logprobs(rows), rows.is_trained), strict=True):
        np.testing.assert_allclose(rewards, 0.5 * (logprobs.numpy() + 1), atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"update": "single_forward"}, {"loss": "dpo", "update": "reverse"}, {"reference": "policy"}], ids=str
)
@pytest.mark.parametrize("micro_batch_rollouts", [1, 100])
def test_greedy_baselines_are_scored_with_the_batch_and_never_trained_on(settings: dict[str, object], micro_batch_rollouts: int) -> None:
    alone, beside = (implicit_prm(None, micro_batch_rollouts=micro_batch_rollouts, **settings) for _ in range(2))
    for step in (1, 2):
        batch = batch_of(step, baselines=True)
        one, other = process(alone, batch_of(step)), process(beside, batch)
        assert other.metrics == pytest.approx(one.metrics, rel=1e-4, abs=1e-5)
        for first, second in zip(one.process_rewards, other.process_rewards, strict=True):
            np.testing.assert_allclose(first, second, atol=2e-5)
        assert one.baseline_process_rewards == []
        assert [len(values) for values in other.baseline_process_rewards] == [one.rollout.trained_tokens for one in batch.baselines]
    assert max(np.abs(values).max() for values in other.baseline_process_rewards) > 1e-4


def test_a_baselines_rewards_are_those_of_any_response() -> None:
    # As a rollout of the batch, the same response would be scored the same.
    prm = implicit_prm(update="double_forward")
    process(prm, batch_of(1))
    prm._settings = prm._settings.model_copy(update={"update": "offline"})
    batch = batch_of(2, baselines=True)
    as_rollouts = Batch(step=2, groups=tuple(VerifiedGroup(group_id=1 + i, rollouts=(one,)) for i, one in enumerate(batch.baselines)))
    expected = process(prm, as_rollouts).process_rewards
    for one, other in zip(process(prm, batch).baseline_process_rewards, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "scored"),
    [
        ({"update": "double_forward"}, 1),
        ({"update": "double_forward", "updates_per_batch": 3}, 1),
        ({"update": "single_forward"}, 0),
        ({"update": "single_forward", "updates_per_batch": 3}, 1),
        ({"update": "reverse", "loss": "dpo"}, 1),
        ({"update": "offline"}, 1),
    ],
    ids=str,
)
def test_a_batch_passes_the_prm_no_more_often_than_it_must(settings: dict[str, Any], scored: int) -> None:
    batch = batch_of(1)
    rollouts = len(batch.rollouts)
    engine = CountingEngine(TokenLogprobModel(tiny_model(), chunk_tokens=7))
    process(implicit_prm(engine, **settings), batch)
    trained = 0 if settings["update"] == "offline" else 1
    assert (engine.scored, engine.trained) == (scored * rollouts, trained * rollouts)
    assert engine.steps == trained * settings.get("updates_per_batch", 1)


@pytest.mark.parametrize("micro_batch_rollouts", [1, 5])
def test_what_others_wrote_between_a_models_turns_has_no_reward_and_no_part_in_the_score(micro_batch_rollouts: int) -> None:
    # A PRM with weights of its own, so that rewards are not 0 before the first update.
    engine = PlainEngine(TokenLogprobModel(tiny_model(seed=1), chunk_tokens=7))
    batch = batch_in_turns(1, baselines=True)
    found = process(implicit_prm(engine, update="single_forward", micro_batch_rollouts=micro_batch_rollouts), batch)
    prm, reference = tiny_model(seed=1), tiny_model()
    issued = [content(one) for one in (*batch.rollouts, *batch.baselines)]
    expected = [0.5 * (plain_logprobs(prm, one) - plain_logprobs(reference, one).detach()) for one in issued]
    for ours, theirs in zip([*found.process_rewards, *found.baseline_process_rewards], expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)
    scores = torch.stack([rewards.sum() for rewards in expected[: len(batch.rollouts)]])
    outcomes = torch.tensor([one.outcome_reward for one in batch.rollouts])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, outcomes)
    loss.backward()
    norm = sum(parameter.grad.square().sum() for parameter in prm.parameters() if parameter.grad is not None) ** 0.5
    assert found.metrics["prm_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found.metrics["prm_gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("tokens", [8, 30, 1000])
def test_a_budget_of_tokens_changes_nothing(tokens: int) -> None:
    whole = process(implicit_prm(micro_batch_rollouts=12), batch_of(1))
    split = process(implicit_prm(micro_batch_tokens=tokens), batch_of(1))
    for one, other in zip(whole.process_rewards, split.process_rewards, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert split.metrics == pytest.approx(whole.metrics, rel=1e-4, abs=1e-5)


def test_the_loss_of_the_guide_is_one_file_and_trains(tmp_path: Path) -> None:
    with one_more_file(prm_losses, tmp_path, "brier", example("brier")):
        prm = implicit_prm(loss="brier")
        losses = [process(prm, batch_of(1)).metrics["prm_loss"] for _ in range(5)]
    # Scores of 0 predict 1/2.
    assert losses[0] == pytest.approx(0.25, abs=1e-5)
    assert losses[-1] < losses[0]
