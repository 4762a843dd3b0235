"""What belongs to a train step, and what it shows to Prometheus."""

import math
from dataclasses import replace

import pytest

from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.core.types import DroppedRollout, VerifiedGroup
from oprime_coordinator.step_statistics import StepStatistics, export_step, statistics_value
from tiny_models import verified_rollout


def test_a_step_is_counted_and_its_newest_values_are_shown() -> None:
    metrics = PrometheusMetrics()
    export_step(metrics, 1, {"outcome_reward_mean": 0.5, "acceptance_rate": 0.25, "prm_loss": 0.5})
    export_step(metrics, 2, {"outcome_reward_mean": 0.75, "prm_loss": 0.4})
    page = metrics.render()[0].decode()
    assert "oprime_train_steps_total 2.0" in page
    assert "oprime_committed_step 2.0" in page
    assert "oprime_outcome_reward_mean 0.75" in page
    assert "oprime_acceptance_ratio 0.25" in page
    # The PRM shows its own numbers: two sources of one number would be counted twice.
    assert "prm_loss" not in page


def group_of(group_id: int, *scores: float, tokens: int = 2, baseline: float | None = None) -> VerifiedGroup:
    rollouts = tuple(verified_rollout(group_id, index, score, [9] * tokens) for index, score in enumerate(scores))
    greedy = None if baseline is None else verified_rollout(group_id, len(scores), baseline, [9, 9, 9, 9])
    return VerifiedGroup(group_id=group_id, rollouts=rollouts, baseline=greedy)


def verify(statistics: StepStatistics, group: VerifiedGroup, refused: str | None = None) -> None:
    """Its rollouts arrive, and it is decided."""
    for verified in group.issued:
        statistics.arrived(verified)
    statistics.decided(group, refused)


def begun(now_s: float = 10.0) -> StepStatistics:
    statistics = StepStatistics()
    statistics.begin(now_s)
    return statistics


def test_means_are_over_what_was_verified_for_the_batch_before_the_filter() -> None:
    statistics = begun()
    verify(statistics, group_of(1, 0.0, 0.0, tokens=4), "filtered:accuracy_low")
    verify(statistics, group_of(2, 1.0, 1.0, tokens=2))
    statistics.cut(1, [2])
    row = statistics.committed(1, 12.0)
    # Rewards 0, 0, 1, 1; 4 + 4 + 2 + 2 tokens in 2 s.
    assert (row["outcome_reward_mean"], row["response_tokens_mean"], row["tokens_per_second"], row["seconds"]) == (0.5, 3.0, 6.0, 2.0)
    assert (row["groups_accepted"], row["groups_filtered_accuracy_low"], row["acceptance_rate"]) == (1, 1, 0.5)
    assert "baseline_outcome_reward_mean" not in row


def test_actions_are_counted_where_responses_take_them() -> None:
    statistics = begun()
    group = group_of(1, 1.0, 1.0, 0.0, 0.0)
    acted = (replace(group.rollouts[0], actions=5, keeps_action_form=True), replace(group.rollouts[1], actions=1), *group.rollouts[2:])
    verify(statistics, replace(group, rollouts=acted))
    statistics.cut(1, [1])
    verify(statistics, group_of(2, 1.0))
    statistics.cut(2, [2])
    row, next_row = statistics.committed(1, 12.0), statistics.committed(2, 14.0)
    # 5 + 1 actions of four responses, one of which keeps the form.
    assert (row["actions_mean"], row["action_form_share"]) == (1.5, 0.25)
    assert "actions_mean" not in next_row


def test_greedy_baselines_count_for_the_pace_and_have_a_mean_of_their_own() -> None:
    statistics = begun()
    verify(statistics, group_of(1, 0.0, baseline=1.0))
    statistics.cut(1, [1])
    row = statistics.committed(1, 12.0)
    assert (row["outcome_reward_mean"], row["response_tokens_mean"], row["baseline_outcome_reward_mean"]) == (0.0, 2.0, 1.0)
    assert (row["tokens_per_second"], row["rollouts_per_second"]) == (3.0, 1.0)


def test_two_steps_that_are_committed_at_once_each_have_their_own_numbers_and_share_the_time() -> None:
    statistics = begun()
    for group_id, reward in ((1, 1.0), (2, 0.0)):
        verify(statistics, group_of(group_id, reward, reward))
    statistics.cut(1, [1])
    statistics.cut(2, [2])
    first, second = statistics.committed(1, 14.0, together=2), statistics.committed(2, 14.0)
    assert (first["outcome_reward_mean"], second["outcome_reward_mean"]) == (1.0, 0.0)
    # 8 tokens in 4 s.
    assert (first["tokens_per_second"], second["tokens_per_second"]) == (2.0, 2.0)
    assert (first["seconds"], second["seconds"]) == (2.0, 2.0)


def test_the_pace_is_that_of_the_run_also_where_steps_follow_each_other_faster_than_rollouts() -> None:
    statistics = begun(0.0)
    verify(statistics, group_of(1, 1.0, tokens=60))
    verify(statistics, group_of(2, 1.0, tokens=40))
    for step in (1, 2):
        statistics.cut(step, [step])
    # 100 tokens in 10 s; the second step comes a tenth of a second after the first, and nothing has arrived since.
    assert statistics.committed(1, 10.0)["tokens_per_second"] == 10
    assert statistics.committed(2, 10.1)["tokens_per_second"] == pytest.approx(100 / 10.1)
    # 10.1 s to 18 s: 79 tokens, since the row before is old enough.
    verify(statistics, group_of(3, 1.0, tokens=79))
    statistics.cut(3, [3])
    assert statistics.committed(3, 18.0)["tokens_per_second"] == pytest.approx(10)


def test_a_refused_group_belongs_to_the_batch_of_the_group_that_was_accepted_after_it() -> None:
    statistics = begun()
    statistics.decided(group_of(1, 1.0), None)
    statistics.decided(group_of(2, 0.0), "filtered:accuracy_low")
    statistics.decided(group_of(3, 1.0), None)
    statistics.cut(1, [1])
    statistics.cut(2, [3])
    assert "groups_filtered_accuracy_low" not in statistics.committed(1, 11.0)
    assert statistics.committed(2, 12.0)["groups_filtered_accuracy_low"] == 1


def test_a_group_that_was_accepted_and_became_stale_counts_once_as_stale() -> None:
    statistics = begun()
    statistics.decided(group_of(1, 1.0, 1.0, tokens=700), None)
    statistics.decided(group_of(1, 1.0, 1.0, tokens=700), "dropped:stale")
    statistics.arrived(DroppedRollout(group_id=2, index=0, reason="stale", response_tokens=1000))
    statistics.arrived(DroppedRollout(group_id=2, index=1, reason="stale"))
    statistics.arrived(DroppedRollout(group_id=3, index=0, reason="undecided", response_tokens=5))
    statistics.decided(group_of(4, 1.0, tokens=10), None)
    statistics.cut(1, [4])
    row = statistics.committed(1, 12.0)
    assert (row["groups_accepted"], row["groups_dropped_stale"]) == (1, 1)
    # Of four stale rollouts three have a known length: 700, 700 and 1000.
    assert (row["stale_rollouts"], row["stale_tokens_mean"], row["trained_tokens_mean"]) == (4, 800.0, 10.0)
    assert (row["stale_to_1024_tokens"], row["trained_to_16_tokens"]) == (3, 1)
    assert "dropped_to_8_tokens" not in row


def test_a_restarted_coordinator_knows_what_was_verified_for_a_batch_but_not_how_fast() -> None:
    before = begun()
    before.decided(group_of(1, 1.0, 0.0, tokens=3), None)
    kept = {statistics_value(7): before.batch([1]).to_bytes()}
    after = StepStatistics()
    after.restore(kept)
    after.begin(100.0)
    row = after.committed(7, 100.1)
    assert (row["outcome_reward_mean"], row["response_tokens_mean"], row["trained_to_4_tokens"]) == (0.5, 3.0, 2)
    assert "tokens_per_second" not in row
    after.decided(group_of(2, 1.0), None)
    after.cut(8, [2])
    assert after.committed(8, 102.1)["seconds"] == pytest.approx(2.0)


def test_a_restarted_coordinator_knows_what_was_refused_and_accepted_before_it() -> None:
    queue: dict[str, bytes] = {}
    before, after = begun(), StepStatistics()

    def decide(statistics: StepStatistics, group_id: int, refused: str | None) -> None:
        group = group_of(group_id, 1.0, 0.0)
        values = statistics.values_of(group, refused)
        queue.update({name: value for name, value in values.items() if value is not None})
        for name in [name for name, value in values.items() if value is None]:
            queue.pop(name, None)
        statistics.decided(group, refused)

    decide(before, 1, "filtered:accuracy_low")
    decide(before, 2, None)
    decide(before, 3, "filtered:accuracy_high")
    after.restore(queue)
    # It reads the accepted group again, and goes on.
    after.decided(group_of(2, 1.0, 0.0), None)
    decide(after, 4, None)
    after.cut(1, [2])
    after.cut(2, [4])
    first, second = after.committed(1, 1.0), after.committed(2, 2.0)
    assert (first["groups_accepted"], first["groups_filtered_accuracy_low"], first["acceptance_rate"]) == (1, 1, 0.5)
    assert (second["groups_accepted"], second["groups_filtered_accuracy_high"], second["acceptance_rate"]) == (1, 1, 0.5)


def test_a_step_of_which_nothing_is_known_has_a_pace_alone() -> None:
    assert sorted(begun().committed(3, 11.0)) == ["rollouts_per_second", "seconds", "tokens_per_second"]
    assert StepStatistics().committed(3, 11.0) == {}


def test_the_acceptance_rate_is_unknown_before_the_first_decision() -> None:
    statistics = begun()
    assert math.isnan(statistics.acceptance_rate)
    statistics.decided(group_of(1, 1.0), None)
    statistics.decided(group_of(2, 0.0), "filtered:accuracy_low")
    assert statistics.acceptance_rate == 0.5


def test_rollouts_are_counted_by_fate_and_length() -> None:
    metrics = PrometheusMetrics()
    export_step(metrics, 1, {"stale_to_1024_tokens": 3.0, "trained_to_16_tokens": 1.0, "trained_tokens": 10.0})
    page = metrics.render()[0].decode()
    assert 'oprime_decided_rollouts_total{fate="stale",up_to_tokens="1024"} 3.0' in page
    assert 'oprime_decided_rollouts_total{fate="trained",up_to_tokens="16"} 1.0' in page
