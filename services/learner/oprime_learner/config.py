"""Settings of the learner."""

from pydantic import Field

from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    QueueSection,
    RunSection,
    SamplingSection,
    ServiceSettings,
    StalenessSection,
    StoreSection,
)
from oprime.runtime.training_settings import TrainerSection


class LearnerSection(TrainerSection):
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate of AdamW (paper, section 4.1)."""


class LearnerSettings(ServiceSettings):
    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    store: StoreSection = StoreSection()
    learner: LearnerSection = LearnerSection()
