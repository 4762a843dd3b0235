"""Settings of `oprime prm train`: an implicit PRM from response-level data, without a run."""

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from oprime.core import prm_losses
from oprime.core.prm_loss import PrmLoss
from oprime.runtime.one_file_settings import idle_settings, with_own_settings
from oprime.runtime.setting_rules import Problems, Rule, attention_fits_dtype
from oprime.runtime.settings import ModelSection, ServiceSettings, TasksSection, TrackingSection
from oprime.runtime.training_settings import EngineSection, LoraSection, offload_problems
from oprime_prm.config import PRM_FILES, ImplicitRewardSection, PrmSection


class CommonOfflinePrmSection(ImplicitRewardSection, EngineSection):
    """Settings of [offline_prm] that do not belong to single losses."""

    start: str = ""
    """Model to begin with: a directory or hub id. Empty means model.path."""
    reference_model: str = ""
    """pi_ref of Eq. 3, frozen. Empty means the model to begin with."""
    output: str = ""
    """Directory of the resulting model, for prm.initial_model of a run; its reference goes into prm.reference_model."""
    data: str = ""
    """JSONL or parquet file with responses and labels, or `hf://datasets/OWNER/NAME/FILE` (docs/prm.md); empty means the chain task's noisy
    teacher."""
    reader: str = ""
    """What reads the rows: `labelled`, `ultrainteract`, `eurusprm`, `pointwise`, or a reader of your own, `module:NAME` or
    `path/to/file.py:NAME`. Empty recognises the file by its first row."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping."""
    teacher_responses: int = Field(default=4, ge=1)
    """Responses of the chain task's teacher to each problem."""
    seed: int = Field(default=0, ge=0)
    """Seeds the order of prompts."""
    epochs: int = Field(default=1, ge=1)
    """How often each prompt is trained on. The chain task's teacher makes new ones for ever."""
    steps: int = Field(default=0, ge=0)
    """Above 0: optimizer steps, in place of epochs."""
    batch_prompts: int = Field(default=8, ge=1)
    """Prompts per optimizer step, each with all of its responses; 8 prompts of 8 responses are the 64 of EurusPRM."""
    max_tokens: int = Field(default=4096, ge=2)
    """Longest prompt and response together; longer ones are refused."""
    save_every: int = Field(default=100, ge=1)
    """Steps between two resumable states."""
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate of AdamW (paper, section 5.1)."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate grows from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after warm-up; `linear` and `cosine` end at min_learning_rate_ratio."""
    min_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Where a schedule ends, as a share of the peak."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's second moment decay."""
    micro_batch_rollouts: int = Field(default=8, ge=1)
    """Responses per forward pass and rank. Changes memory and speed, not the result."""
    lora: LoraSection = LoraSection()
    """Adapters of the PRM; they end in the resulting model's weights. A reference that is the model to begin with is then no second one."""


class OfflinePrmSection(with_own_settings(CommonOfflinePrmSection, PRM_FILES)):
    """An implicit PRM from response-level data (`oprime prm train`)."""

    @property
    def chosen_loss(self) -> PrmLoss:
        return prm_losses.named(self.loss).with_settings(dict(self))

    @model_validator(mode="after")
    def settings_fit_together(self) -> Self:
        if problems := [*idle_settings(self, "offline_prm", PRM_FILES), *self.chosen_loss.contradictions()]:
            raise ValueError("; ".join(re.sub(r"\bprm\.", "offline_prm.", problem) for problem in problems))
        return self

    def online(self, steps: int) -> PrmSection:
        """The section with which the PRM of a run would take the same optimizer steps, of which there are `steps`."""
        # A loss that compares siblings gathers their scores first; all others need one pass.
        update = "single_forward" if self.chosen_loss.statistics is None else "reverse"
        # What is trained of the model is for its engine alone.
        same = (type(self).model_fields.keys() & PrmSection.model_fields.keys()) - {"lora"}
        warmup_steps = round(self.warmup_ratio * steps)
        return PrmSection.model_validate({**{name: getattr(self, name) for name in same}, "update": update, "warmup_steps": warmup_steps})


def offline_prm_can_offload(offline_prm: OfflinePrmSection) -> Problems:
    return offload_problems("offline_prm", offline_prm)


def offline_prm_ranks_get_prompts(offline_prm: OfflinePrmSection) -> Problems:
    if offline_prm.ranks <= offline_prm.batch_prompts:
        return []
    return [
        f"offline_prm.ranks = {offline_prm.ranks} is more than the offline_prm.batch_prompts = {offline_prm.batch_prompts} prompts of a "
        "step: use fewer ranks"
    ]


OFFLINE_PRM_RULES: tuple[Rule, ...] = (offline_prm_can_offload, offline_prm_ranks_get_prompts)


class OfflinePrmSettings(ServiceSettings):
    """What `oprime prm train` reads of a file; all else in it is passed over."""

    rules: ClassVar[tuple[Rule, ...]] = (attention_fits_dtype, *OFFLINE_PRM_RULES)

    model: ModelSection
    tasks: TasksSection = TasksSection()
    tracking: TrackingSection = TrackingSection()
    offline_prm: OfflinePrmSection
