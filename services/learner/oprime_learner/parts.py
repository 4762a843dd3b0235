"""A batch cut into optimizer steps, and each step's rollouts dealt to this rank's micro-batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.aggregation import StepCounts, token_shares
from oprime.core.batching import split_groups
from oprime.core.types import Batch, FinishReason, RolloutRecord, VerifiedGroup
from oprime.lm.batches import MicroBatch, RowFetcher, micro_batches
from oprime.ports import TrainEngine
from oprime.runtime.settings import AlgorithmSection
from oprime.runtime.training_settings import OptimizerSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rollouts of one optimizer step, dealt to this rank's micro-batches."""

    records: list[RolloutRecord]
    first: int
    """Place of its first rollout in the batch; the rest follow."""
    batches: list[MicroBatch]
    in_loss: list[bool]
    """Whether each rollout has a loss. One that has none counts in no denominator."""
    counts: StepCounts
    """Of the rollouts in the loss."""
    group_tokens: list[int]
    """Tokens of each rollout's group that are in the loss."""

    @property
    def tokens(self) -> int:
        """That are trained on, in the loss or not."""
        return sum(record.trained_tokens for record in self.records)

    def shares(self, batch: MicroBatch, algorithm: AlgorithmSection) -> Tensor:
        """Weight of each response token of a micro-batch in the loss of the step, [rollout, token] float64."""
        in_loss = torch.tensor([self.in_loss[place] for place in batch.positions], dtype=torch.bool)
        tokens = batch.rows.is_trained & in_loss[:, None]
        if self.counts.rollouts == 0:
            return tokens.double()
        group_tokens = torch.tensor([self.group_tokens[place] for place in batch.positions], dtype=torch.int64)
        return token_shares(
            tokens,
            group_tokens,
            self.counts,
            aggregation=algorithm.aggregation,
            constant_tokens=algorithm.constant_tokens,
        )

    def places(self, batch: MicroBatch) -> list[int]:
        """Places of a micro-batch's rollouts in the whole batch."""
        return [self.first + place for place in batch.positions]


def parts_of(
    batch: Batch, fetcher: RowFetcher, engine: TrainEngine, settings: OptimizerSection, *, mask_truncated: bool = False
) -> list[Part]:
    """One part per optimizer step, in order. With `mask_truncated` responses that were cut at the token limit are in no loss."""
    parts: list[Part] = []
    first = 0
    for groups in split_groups(batch.groups, settings.updates_per_batch):
        part = _part(groups, first, fetcher, engine, settings, mask_truncated=mask_truncated)
        parts.append(part)
        first += len(part.records)
    return parts


def _part(
    groups: list[VerifiedGroup], first: int, fetcher: RowFetcher, engine: TrainEngine, settings: OptimizerSection, *, mask_truncated: bool
) -> Part:
    records = [verified.rollout for group in groups for verified in group.rollouts]

    def in_loss(record: RolloutRecord) -> bool:
        return not (mask_truncated and record.finish_reason is FinishReason.LENGTH)

    tokens = [sum(one.rollout.trained_tokens for one in group.rollouts if in_loss(one.rollout)) for group in groups]
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
        in_loss=[in_loss(record) for record in records],
        counts=StepCounts(tokens=sum(tokens), rollouts=sum(map(in_loss, records)), groups=sum(total > 0 for total in tokens)),
        group_tokens=[total for group, total in zip(groups, tokens, strict=True) for _ in group.rollouts],
    )
