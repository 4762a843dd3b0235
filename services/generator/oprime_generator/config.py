"""Settings of the generator."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from oprime.runtime.settings import (
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
)
from oprime.runtime.training_settings import LoraSection, PublishedLoraSection


class GeneratorSection(Section):
    backend: Literal["vllm", "transformers"] = "vllm"
    """Sampler. `transformers` serves platforms without a vLLM wheel; it is slow and deterministic."""
    max_running_groups: int = Field(default=64, gt=0)
    """Tickets that one replica holds at a time."""
    follow_poll_s: float = Field(default=0.05, gt=0)
    """Seconds between two looks for a newer weight version."""
    follow_at_once: int = Field(default=1, ge=1)
    """Replicas that may pause at the same time to load newer weights. One that has nothing to sample pauses nothing and does not count."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs per replica (vLLM), over all hosts of the replica."""
    max_running_rollouts: int = Field(default=256, gt=0)
    """Sequences that vLLM decodes at once."""
    gpu_memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU that vLLM may fill."""
    cpu_cache_gib: float = Field(default=1.0, gt=0)
    """Size of vLLM's key-value cache on a CPU, in GiB."""
    threads: int = Field(default=0, ge=0)
    """vLLM's threads on a CPU; 0 takes OMP_NUM_THREADS, or else all cores but one."""
    prefix_cache: bool = True
    """Read a prompt once for all its siblings (vLLM's prefix cache, which keeps whole blocks of 16 tokens on GPUs and of 128 on CPUs).
    Nothing that older weights computed is used again."""
    eager: bool = True
    """Skip graph capture and compilation (vLLM's enforce_eager)."""


class PublishedPolicy(BaseModel):
    """What a generator reads of [learner], whose other settings are the learner's own: whether versions are adapters."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lora: PublishedLoraSection = PublishedLoraSection()

    @property
    def adapters(self) -> LoraSection:
        """The adapters that versions hold; rank 0 where they hold whole models."""
        return self.lora if self.lora.publishes_adapters else LoraSection()


class GeneratorSettings(ServiceSettings):
    service: ClassVar[str] = "generator"

    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    store: StoreSection = StoreSection()
    generator: GeneratorSection = GeneratorSection()
    learner: PublishedPolicy = PublishedPolicy()
