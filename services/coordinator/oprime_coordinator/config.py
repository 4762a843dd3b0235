"""Settings of the coordinator."""

from typing import Self

from pydantic import Field, model_validator

from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    QueueSection,
    RunSection,
    SamplingSection,
    Section,
    ServiceSettings,
    StalenessSection,
    StoreSection,
    TasksSection,
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
    """Report the run as stalled when no step was committed for this long."""


class CoordinatorSettings(ServiceSettings):
    run: RunSection
    model: ModelSection
    tasks: TasksSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    store: StoreSection = StoreSection()
    coordinator: CoordinatorSection
