"""Settings of the coordinator."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from oprime.runtime.setting_rules import SHARED_RULES, Problems, Rule
from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    PayloadsSection,
    QueueSection,
    RunSection,
    SamplingSection,
    Section,
    ServiceSettings,
    StalenessSection,
    StoreSection,
    TasksSection,
    TrackingSection,
)


class FilterSection(Section):
    """Online prompt filter (paper, section 4.1)."""

    enabled: bool = True
    """Whether groups are filtered at all."""
    low: float = Field(default=0.2, ge=0, le=1)
    """Groups with a mean outcome reward below this are too hard."""
    high: float = Field(default=0.8, ge=0, le=1)
    """Groups with a mean outcome reward above this are too easy."""
    drop_truncated: bool = True
    """Leave out groups with a response that was cut at the token limit."""
    drop_zero_variance: bool = False
    """Leave out groups whose outcome rewards are all equal: they teach nothing about outcomes."""
    longest_response_tokens: int = Field(default=0, ge=0)
    """Leave out groups with a response of more tokens; 0 means no limit of its own."""

    @model_validator(mode="after")
    def low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"coordinator.filter.low ({self.low}) must not exceed coordinator.filter.high ({self.high})")
        return self


class CoordinatorSection(Section):
    groups_per_batch: int = Field(gt=0)
    """Prompts per train step, after filtering."""
    max_live_groups: int = Field(default=4096, gt=0)
    """Never have more groups under way than this, whatever the staleness bound allows."""
    filter: FilterSection = FilterSection()
    """Online prompt filter."""
    refused_batches_limit: int = Field(default=50, gt=0)
    """Stop when this many batches' worth of groups in turn were refused: nothing will be learned."""
    heldout_samples: int = Field(default=1, ge=1)
    """Sampled answers per held-out problem at temperature 1."""
    stall_s: float = Field(default=1800.0, gt=0)
    """Say who waits for what when nothing has moved for this long: no rollout verified, no group decided, no batch cut, no step
    committed, no held-out problem judged. Longer than your longest train step and longest response take."""


def single_rollouts_pass_the_filter(sampling: SamplingSection, algorithm: AlgorithmSection, coordinator: CoordinatorSection) -> Problems:
    chosen = coordinator.filter
    if sampling.group_size > 1 or algorithm.needs_siblings or not chosen.enabled:
        return []
    if chosen.drop_zero_variance:
        return [
            "sampling.group_size = 1 with coordinator.filter.drop_zero_variance = true: one rollout has no variance, so no group would "
            "pass; set coordinator.filter.drop_zero_variance=false"
        ]
    if chosen.low > 0 and chosen.high < 1:
        return [
            f"sampling.group_size = 1 with coordinator.filter.low = {chosen.low:g} and coordinator.filter.high = {chosen.high:g}: a "
            "rollout that is right or wrong would never pass; set coordinator.filter.enabled=false"
        ]
    return []


def batch_fits_live_groups(coordinator: CoordinatorSection) -> Problems:
    live, batch = coordinator.max_live_groups, coordinator.groups_per_batch
    if live >= batch:
        return []
    return [
        f"coordinator.max_live_groups = {live} is below coordinator.groups_per_batch = {batch}: no batch could ever be filled; "
        f"set coordinator.max_live_groups={2 * batch} or more"
    ]


def truncated_responses_pass_the_filter(algorithm: AlgorithmSection, coordinator: CoordinatorSection) -> Problems:
    if not (algorithm.mask_truncated and coordinator.filter.enabled and coordinator.filter.drop_truncated):
        return []
    return [
        "algorithm.mask_truncated = true with coordinator.filter.drop_truncated = true: groups with a truncated response are left out "
        "whole, so there would be none to mask; set coordinator.filter.drop_truncated=false, or algorithm.mask_truncated=false"
    ]


COORDINATOR_RULES: tuple[Rule, ...] = (single_rollouts_pass_the_filter, batch_fits_live_groups, truncated_responses_pass_the_filter)


class CoordinatorSettings(ServiceSettings):
    service: ClassVar[str] = "coordinator"
    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *COORDINATOR_RULES)

    run: RunSection
    model: ModelSection
    tasks: TasksSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    store: StoreSection = StoreSection()
    tracking: TrackingSection = TrackingSection()
    coordinator: CoordinatorSection

    @property
    def rollouts_per_group(self) -> int:
        """Rollouts that a ticket asks for, the greedy baseline included."""
        return self.sampling.group_size + self.algorithm.needs_greedy_baseline
