"""Settings that every model shares that is trained here, by reinforcement or on demonstrations: how DeepSpeed trains it."""

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from oprime.runtime.settings import Section

if TYPE_CHECKING:
    from oprime.core.schedule import LearningRates

VOCABULARY_CHUNK = 8192
"""Vocabulary entries whose logits exist at once, for `logprob_chunk_tokens` tokens; more where there are fewer tokens."""


class TrainingSection(Section):
    """How one model is trained, whatever it is trained on and whichever processes hold it."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after warm-up, over the run's steps; `linear` and `cosine` end at min_learning_rate_ratio."""
    min_learning_rate_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where a schedule ends, as a share of the peak."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's first moment decay."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's second moment decay."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Above 0: tokens per forward pass and rank, in place of micro_batch_rollouts; passes are of similar size, and a longer rollout has
    one of its own. Changes memory and speed, not the result."""
    packing: bool = True
    """Compute on the rows' tokens alone, not on padding. A model that cannot keep rows apart that share a pass keeps padded rows, and the
    log says why. Changes memory and speed, not the result."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    offload_optimizer: bool = False
    """Keep optimizer state in CPU memory (ZeRO 1 to 3)."""


class ProcessesSection(Section):
    logprob_chunk_tokens: int = Field(default=1024, ge=1)
    """Tokens whose logits exist at once, for a piece of the vocabulary at a time; the rest is recomputed in the backward pass."""
    ranks: int = Field(default=1, ge=1)
    """Processes of the data-parallel group."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` takes a GPU when there is one."""
    threads: int = Field(default=0, ge=0)
    """CPU threads per rank; 0 leaves the choice to torch."""


class EngineSection(ProcessesSection, TrainingSection):
    """What a train engine reads: a model's optimizer and the processes that hold it."""


class LoraSection(Section):
    """Low-rank adapters, trained in place of all weights (LoRA, arXiv 2106.09685)."""

    rank: int = Field(default=0, ge=0, le=512)
    """Above 0: train adapters B A of this rank r, added to the linear layers as W + scale B A, and leave all weights of the model as they
    are. B starts at 0, so that training starts from the model itself. There is no dropout, as everywhere. 0 trains all weights."""
    alpha: float = Field(default=32.0, gt=0)
    """The scale of adapters is alpha / rank."""
    rslora: bool = False
    """Take alpha / sqrt(rank) instead, so that ranks need no learning rates of their own (rank-stabilised LoRA, arXiv 2312.03732)."""
    targets: tuple[str, ...] = ()
    """Linear layers that get an adapter, by the last part of their names, such as `["q_proj", "v_proj"]`. Empty means all but the output
    head."""

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @model_validator(mode="after")
    def settings_act(self) -> Self:
        idle = [] if self.rank else sorted(self.model_fields_set - {"rank"})
        if idle and any(getattr(self, name) != type(self).model_fields[name].default for name in idle):
            raise ValueError(f"{' and '.join(idle)} without rank, which is 0: all weights are trained; set rank=16, or leave the rest out")
        return self


class PublishedLoraSection(LoraSection):
    """Adapters of a model whose versions others load."""

    publish: Literal["merged", "adapter"] = "merged"
    """What a version holds. `merged`: the whole model, with the adapters added to its weights. `adapter`: the adapters alone, in PEFT's
    form, with the name and a checksum of the model that they belong to."""

    @property
    def publishes_adapters(self) -> bool:
        return self.rank > 0 and self.publish == "adapter"


class OptimizerSection(TrainingSection):
    """How one model is trained on rollouts, whichever processes hold it."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate grows from 0."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps per batch; groups are split evenly, in order."""
    micro_batch_rollouts: int = Field(default=8, ge=1)
    """Rollouts per forward pass and rank. Changes memory and speed, not the result."""

    def learning_rates(self, total_steps: int) -> "LearningRates":
        """The learning rate of each of a run's train steps."""
        from oprime.core.schedule import LearningRates

        return LearningRates(
            peak=self.learning_rate,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            total_steps=total_steps,
            min_ratio=self.min_learning_rate_ratio,
        )


class TrainerSection(OptimizerSection, EngineSection):
    def training(self, other: OptimizerSection) -> Self:
        """The same processes with the optimizer of another model."""
        return self.model_copy(update={name: getattr(other, name) for name in OptimizerSection.model_fields})


def offload_problems(name: str, model: TrainingSection) -> list[str]:
    """What is wrong with section `name` if it offloads what is not spread."""
    if not model.offload_optimizer or model.zero_stage != 0:
        return []
    return [f"{name}.offload_optimizer = true with {name}.zero_stage = 0: only ZeRO 1 to 3 can offload; set {name}.zero_stage=1"]
