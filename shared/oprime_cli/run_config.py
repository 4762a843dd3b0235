"""A whole run's settings: every section of its TOML file, and the rules that span sections."""

from typing import Literal

from pydantic import Field

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
from oprime_coordinator.config import CoordinatorSection
from oprime_gateway.config import GatewaySection
from oprime_generator.config import GeneratorSection
from oprime_learner.config import CriticSection, LearnerSection
from oprime_prm.config import PrmSection
from oprime_verifier.config import VerifierSection


class SftSection(Section):
    """Supervised warm-up of the starting model (`oprime sft`)."""

    start: str = ""
    """Model to begin with: a directory or hub id. Empty means model.path, or a new tiny model for the chain task."""
    output: str = ""
    """Directory of the resulting model; empty means model.path."""
    steps: int = Field(default=300, gt=0)
    """Optimizer steps."""
    batch_rows: int = Field(default=128, gt=0)
    """Demonstrations per step."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak of the one-cycle schedule."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate grows."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    max_tokens: int = Field(default=4096, gt=0)
    """Length of a packed row; longer demonstrations are refused."""
    micro_batch_rows: int = Field(default=4, gt=0)
    """Packed rows per forward pass. Changes memory and speed, not the result."""
    seed: int = Field(default=0, ge=0)
    """Seeds initial weights and the order of demonstrations."""
    save_every: int = Field(default=100, gt=0)
    """Steps between two resumable states."""
    demonstrations: str = ""
    """JSONL or parquet rows with `messages` (last one the assistant's), or with `system` and `conversations` as in
    Eurus-2-SFT-Data; empty means the chain task's noisy teacher."""
    skip_bad_rows: bool = False
    """Leave out demonstrations that cannot be used, and count them, instead of stopping."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` takes a GPU when there is one."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves the choice to torch."""


class RunConfig(ServiceSettings):
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
    generator: GeneratorSection = GeneratorSection()
    verifier: VerifierSection = VerifierSection()
    prm: PrmSection = PrmSection()
    learner: LearnerSection = LearnerSection()
    critic: CriticSection = CriticSection()
    gateway: GatewaySection = GatewaySection()
    sft: SftSection | None = None
