"""Completes groups and decides what becomes of them. Pure: no clock, no queue."""

from dataclasses import dataclass, field

from oprime.core.group_filter import FilterRules, filter_reason
from oprime.core.types import DroppedRollout, FinishReason, VerifiedGroup, VerifiedRollout
from oprime.ports import Delivery
from oprime_coordinator.config import FilterSection
from oprime_coordinator.step_statistics import STALE_STATE

SIBLINGS_LOST = "siblings_lost"
"""Why the rest of a group is dropped when too few of its rollouts could be verified."""
BASELINE_LOST = "baseline_lost"
"""Why a group is dropped when the greedy response that its rollouts are compared with could not be verified."""
LOSS_STATES = (STALE_STATE, f"dropped:{SIBLINGS_LOST}", f"dropped:{BASELINE_LOST}")
"""All that a whole group can be dropped with."""


@dataclass(slots=True)
class OpenGroup:
    """A group whose rollouts are still arriving."""

    group_id: int
    size: int
    """Rollouts that were issued, the greedy baseline included."""
    has_baseline: bool = False
    """Whether the last of them is the greedy baseline."""
    version: int = 0
    """Newest weight version when it was issued: no token of it is older."""
    issued_again: int = 0
    """How often its ticket was found to be gone."""
    verified: dict[int, VerifiedRollout] = field(default_factory=dict[int, VerifiedRollout])
    lost: set[int] = field(default_factory=set[int])
    """Indices that were dropped or became dead letters."""
    stale: bool = False
    """Whether a generator gave the group up because its weights had become too old."""
    deliveries: list[Delivery] = field(default_factory=list[Delivery])

    @property
    def complete(self) -> bool:
        return len(self.verified) + len(self.lost - self.verified.keys()) >= self.size

    @property
    def missing(self) -> set[int]:
        """Indices of which nothing was heard."""
        return set(range(self.size)) - self.verified.keys() - self.lost

    def add(self, event: VerifiedRollout | DroppedRollout, delivery: Delivery) -> None:
        """Take a verdict. The first one of a rollout counts; a second one only has to be acknowledged with it."""
        self.deliveries.append(delivery)
        if isinstance(event, VerifiedRollout):
            self.verified.setdefault(event.rollout.index, event)
        else:
            self.lost.add(event.index)
            self.stale = self.stale or event.reason == "stale"

    def is_baseline(self, index: int) -> bool:
        return self.has_baseline and index == self.size - 1

    def group(self) -> VerifiedGroup:
        return VerifiedGroup(
            group_id=self.group_id,
            rollouts=tuple(self.verified[index] for index in sorted(self.verified) if not self.is_baseline(index)),
            baseline=self.verified.get(self.size - 1) if self.has_baseline else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyGroup:
    """A complete group that passed the filter and waits for its batch."""

    group: VerifiedGroup
    deliveries: tuple[Delivery, ...]

    @property
    def order(self) -> tuple[int, int]:
        """Oldest weights first, then first issued: what would become too stale soonest goes into the next batch."""
        return self.group.oldest_weight_version, self.group.group_id


def refusal(group: VerifiedGroup, settings: FilterSection, *, needs_siblings: bool, needs_baseline: bool = False) -> str | None:
    """Why a complete group is not trained on: a ledger state, or None if it is. A baseline from siblings needs at least two rollouts.

    The filter looks at what would be trained on: at the rollouts, not at their greedy baseline.
    """
    if len(group.rollouts) < (2 if needs_siblings else 1):
        return f"dropped:{SIBLINGS_LOST}"
    if needs_baseline and group.baseline is None:
        return f"dropped:{BASELINE_LOST}"
    if not settings.enabled:
        return None
    reason = filter_reason(
        group.outcome_rewards,
        [verified.rollout.trained_tokens for verified in group.rollouts],
        any_truncated=any(verified.rollout.finish_reason is FinishReason.LENGTH for verified in group.rollouts),
        rules=filter_rules(settings),
    )
    return None if reason is None else f"filtered:{reason}"


def filter_rules(settings: FilterSection) -> FilterRules:
    return FilterRules(
        low=settings.low,
        high=settings.high,
        drop_truncated=settings.drop_truncated,
        drop_zero_variance=settings.drop_zero_variance,
        longest_response=settings.longest_response_tokens or None,
    )
