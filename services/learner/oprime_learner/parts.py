"""A batch cut into optimizer steps, and each step's rollouts dealt to this rank's micro-batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.aggregation import Aggregation, StepCounts, token_shares
from oprime.core.batching import split_groups
from oprime.core.types import Batch, RolloutRecord, VerifiedGroup
from oprime.lm.batches import MicroBatch, RowFetcher, micro_batches
from oprime.ports import TrainEngine
from oprime.runtime.training_settings import OptimizerSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rollouts of one optimizer step, dealt to this rank's micro-batches."""

    records: list[RolloutRecord]
    first: int
    """Place of its first rollout in the batch; the rest follow."""
    batches: list[MicroBatch]
    counts: StepCounts
    group_tokens: list[int]
    """Tokens of each rollout's group that are trained on."""

    def shares(self, batch: MicroBatch, aggregation: Aggregation) -> Tensor:
        """Weight of each response token of a micro-batch in the loss of the step, [rollout, token] float64."""
        group_tokens = torch.tensor([self.group_tokens[place] for place in batch.positions], dtype=torch.int64)
        return token_shares(batch.rows.is_trained, group_tokens, self.counts, aggregation=aggregation)

    def places(self, batch: MicroBatch) -> list[int]:
        """Places of a micro-batch's rollouts in the whole batch."""
        return [self.first + place for place in batch.positions]


def parts_of(batch: Batch, fetcher: RowFetcher, engine: TrainEngine, settings: OptimizerSection) -> list[Part]:
    """One part per optimizer step, in order."""
    parts: list[Part] = []
    first = 0
    for groups in split_groups(batch.groups, settings.updates_per_batch):
        part = _part(groups, first, fetcher, engine, settings)
        parts.append(part)
        first += len(part.records)
    return parts


def _part(groups: list[VerifiedGroup], first: int, fetcher: RowFetcher, engine: TrainEngine, settings: OptimizerSection) -> Part:
    records = [verified.rollout for group in groups for verified in group.rollouts]
    tokens = [sum(verified.rollout.trained_tokens for verified in group.rollouts) for group in groups]
    batches = micro_batches(
        records,
        fetcher,
        rank=engine.rank,
        ranks=engine.world_size,
        micro_batch_rollouts=settings.micro_batch_rollouts,
        micro_batch_tokens=settings.micro_batch_tokens,
        shares_prompts=engine.shares_prompts,
    )
    return Part(
        records=records,
        first=first,
        batches=batches,
        counts=StepCounts(tokens=sum(tokens), rollouts=len(records), groups=len(groups)),
        group_tokens=[total for group, total in zip(groups, tokens, strict=True) for _ in group.rollouts],
    )
