"""Settings of the implicit PRM."""

from typing import Literal

from pydantic import Field

from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    QueueSection,
    RunSection,
    SamplingSection,
    ServiceSettings,
    StoreSection,
)
from oprime.runtime.training_settings import TrainerSection


class PrmSection(TrainerSection):
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW (paper, section 4.1)."""
    gradient_clip: float = Field(default=10.0, gt=0)
    """Largest gradient norm."""
    beta: float = Field(default=0.05, gt=0)
    """Scale that turns a log-probability ratio into a reward (paper, Eq. 3)."""
    update: Literal["double_forward", "single_forward", "offline"] = "double_forward"
    """`double_forward` updates, then scores with the new version; `single_forward` scores with the version before the
    update; `offline` never updates."""
    loss: Literal["ce"] = "ce"
    """Loss on outcomes: cross-entropy (paper, Eq. 4)."""
    initial_model: str = ""
    """Start the PRM from this model instead of model.path."""
    sampled_groups: int = Field(default=1, ge=0)
    """Groups per step whose rollouts are kept, with their process rewards, in RUN/samples."""
    max_score_items: int = Field(default=256, ge=1)
    """Most responses in one Score request."""


class PrmSettings(ServiceSettings):
    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    store: StoreSection = StoreSection()
    prm: PrmSection = PrmSection()
