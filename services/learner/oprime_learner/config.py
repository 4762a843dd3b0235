"""Settings of the learner."""

from typing import ClassVar

from pydantic import Field

from oprime.runtime.setting_rules import SHARED_RULES, Problems, Rule
from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    PayloadsSection,
    QueueSection,
    RunSection,
    SamplingSection,
    ServiceSettings,
    StalenessSection,
    StoreSection,
)
from oprime.runtime.training_settings import OptimizerSection, PublishedLoraSection, TrainerSection, offload_problems


class LearnerSection(TrainerSection):
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate of AdamW (paper, section 4.1)."""
    sampled_groups: int = Field(default=1, ge=0)
    """Groups per step whose advantages and log-probs are kept, token by token, in RUN/samples. As many as prm.sampled_groups: they are
    the same groups. Nothing is kept in a run without a PRM."""
    lora: PublishedLoraSection = PublishedLoraSection()
    """Adapters of the policy (docs/lora.md)."""


class CriticSection(OptimizerSection):
    """The critic V of estimators that need one (`ppo`). It lives in the learner's processes."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW. Above the policy's: the head starts from 0."""
    path: str = ""
    """Model whose layers the critic starts from, below a new head that gives 0; empty means model.path. It must have the policy's
    tokenizer."""
    value_clip: float = Field(default=0.2, ge=0)
    """c of the value loss 1/2 max((V - R)^2, (clip(V, V_before - c, V_before + c) - R)^2), with R the advantage before whitening plus
    V_before. Acts from the second optimizer step of a batch on. 0 means off: half the squared error."""


def policy_can_offload(learner: LearnerSection) -> Problems:
    return offload_problems("learner", learner)


def critic_can_offload(critic: CriticSection, algorithm: AlgorithmSection) -> Problems:
    return offload_problems("critic", critic) if algorithm.needs_critic else []


def adapters_come_from_the_store(learner: LearnerSection, store: StoreSection) -> Problems:
    if not learner.lora.publishes_adapters or store.transfer == "store":
        return []
    return [
        f'learner.lora.publish = "adapter" with store.transfer = "{store.transfer}": adapters are small and come from the store alone; set '
        "store.transfer=store, or learner.lora.publish=merged"
    ]


LEARNER_RULES: tuple[Rule, ...] = (policy_can_offload, critic_can_offload, adapters_come_from_the_store)


class LearnerSettings(ServiceSettings):
    service: ClassVar[str] = "learner"
    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *LEARNER_RULES)

    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    store: StoreSection = StoreSection()
    learner: LearnerSection = LearnerSection()
    critic: CriticSection = CriticSection()
