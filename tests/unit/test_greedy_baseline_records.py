"""Greedy baselines on the wire."""

from dataclasses import replace

from oprime.core.types import ChatMessage, SamplingSettings, ScoredBatch, Ticket
from oprime.wire.codec import scored_batch_from_proto, scored_batch_to_proto, ticket_from_proto, ticket_to_proto
from oprime_proto.v1 import common_pb2 as pb
from tiny_models import batch_of


def test_a_ticket_says_whether_a_greedy_baseline_is_wanted() -> None:
    messages = (ChatMessage(role="user", content="?"),)
    sampling = SamplingSettings(temperature=1.0, max_prompt_tokens=8, max_response_tokens=8)
    plain = Ticket(group_id=4, messages=messages, material="task/4/name", sampling=sampling, seeds=(1, 2), min_weight_version=0)
    greedy = replace(plain, greedy_baseline=True)
    assert [ticket_from_proto(ticket_to_proto(ticket)) for ticket in (plain, greedy)] == [plain, greedy]
    assert (plain.rollout_ids, greedy.rollout_ids) == (("4:0", "4:1"), ("4:0", "4:1", "4:2"))
    assert (plain.group_size, greedy.group_size) == (2, 2)


def test_a_scored_batch_brings_its_baselines_and_the_names_of_its_rewards_along() -> None:
    whole = batch_of(1, baselines=True)
    batch = replace(whole, groups=(whole.groups[0], replace(whole.groups[1], baseline=None), whole.groups[2]))
    scored = ScoredBatch(batch=batch, process_rewards=("rewards/1/first", "rewards/1/second"), prm_version=1)
    back = scored_batch_from_proto(pb.ScoredBatch.FromString(scored_batch_to_proto(scored).SerializeToString()))
    assert back.batch.groups[1].baseline is None
    assert [one.rollout.rollout_id for one in back.batch.baselines] == ["10:4", "12:4"]
    assert [one.outcome_reward for one in back.batch.baselines] == [1.0, 1.0]
    assert len(back.batch.rollouts) == 12
    assert back.batch.rollouts == batch.rollouts
    assert back.process_rewards == scored.process_rewards
