"""Settings of `oprime sft`: a model from demonstrations, by itself or as the start of a run."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from oprime.runtime.setting_rules import Problems, Rule, attention_fits_dtype
from oprime.runtime.settings import ModelSection, ServiceSettings, TasksSection, TrackingSection
from oprime.runtime.training_settings import EngineSection, LoraSection, offload_problems

if TYPE_CHECKING:
    from oprime.core.schedule import LearningRates


class SftSection(EngineSection):
    """Supervised fine-tuning of a model on demonstrations (`oprime sft`)."""

    start: str = ""
    """Model to begin with: a directory or hub id. Empty means model.path, or a new tiny model for the chain task."""
    output: str = ""
    """Directory of the resulting model; empty means model.path."""
    demonstrations: str = ""
    """JSONL or parquet file with conversations, or `hf://datasets/OWNER/NAME/FILE`, or several by a pattern such as `data/train-*.parquet`
    (docs/sft.md); empty means the chain task's noisy teacher."""
    reader: str = ""
    """What reads the rows: `messages`, `sharegpt`, `completion`, `response`, `instruction`, or a reader of your own, `module:NAME` or
    `path/to/file.py:NAME`. Empty recognises each file by its first row."""
    chat_template: str = ""
    """File with a chat template (Jinja) in place of the tokenizer's, for a base model without one; the result's tokenizer has it."""
    skip_bad_rows: bool = False
    """Leave out demonstrations that cannot be used, and count them, instead of stopping."""
    long_rows: Literal["refuse", "cut", "leave_out"] = "refuse"
    """Demonstrations of more than max_tokens: `refuse` makes them bad rows; `cut` keeps their first max_tokens, `leave_out` nothing of
    them, and both count them."""
    heldout: str = ""
    """A file as demonstrations, which is evaluated and never trained on."""
    heldout_share: float = Field(default=0.0, ge=0, lt=1)
    """In place of heldout: this share of the demonstrations, chosen by seed. Of the chain task's teacher any share means heldout_rows new
    ones."""
    heldout_rows: int = Field(default=1024, ge=1)
    """Held-out demonstrations that are evaluated: the first ones, all there are at most."""
    evaluate_every: int = Field(default=100, ge=0)
    """Steps between two evaluations of the held-out loss, besides before the first and after the last; 0 means only then."""
    seed: int = Field(default=0, ge=0)
    """Seeds initial weights and the order of demonstrations."""
    epochs: int = Field(default=0, ge=0)
    """Above 0: how often each demonstration of a file is trained on, in place of steps."""
    steps: int = Field(default=300, gt=0)
    """Optimizer steps."""
    batch_rows: int = Field(default=128, gt=0)
    """Demonstrations per step."""
    save_every: int = Field(default=100, gt=0)
    """Steps between two resumable states."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of AdamW."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate grows from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after warm-up; `linear` and `cosine` end at min_learning_rate_ratio."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    max_tokens: int = Field(default=4096, gt=1)
    """Longest demonstration; long_rows says what becomes of longer ones."""
    micro_batch_rows: int = Field(default=4, gt=0)
    """A forward pass and rank takes max_tokens times this many tokens; where rows stay padded, this many demonstrations. Changes memory and
    speed, not the result."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Above 0: tokens per forward pass and rank, in place of those of micro_batch_rows. Changes memory and speed, not the result."""

    lora: LoraSection = LoraSection()
    """Adapters of the fine-tuning; they end in the resulting model's weights."""

    def learning_rates(self, steps: int) -> "LearningRates":
        """The learning rate of each of so many steps."""
        from oprime.core.schedule import LearningRates

        return LearningRates(
            peak=self.learning_rate,
            schedule=self.schedule,
            warmup_steps=round(self.warmup_ratio * steps),
            total_steps=steps,
            min_ratio=self.min_learning_rate_ratio,
        )

    @property
    def evaluates(self) -> bool:
        return bool(self.heldout) or self.heldout_share > 0


def warm_up_can_offload(sft: SftSection) -> Problems:
    return offload_problems("sft", sft)


def warm_up_ranks_get_demonstrations(sft: SftSection) -> Problems:
    if sft.ranks <= sft.batch_rows:
        return []
    return [f"sft.ranks = {sft.ranks} is more than the sft.batch_rows = {sft.batch_rows} demonstrations of a step: use fewer ranks"]


def warm_up_epochs_end(sft: SftSection) -> Problems:
    if not sft.epochs or sft.demonstrations:
        return []
    return [f"sft.epochs = {sft.epochs} without sft.demonstrations: the chain task's teacher never ends; set sft.epochs=0 and sft.steps"]


def warm_up_holds_out_once(sft: SftSection) -> Problems:
    if not (sft.heldout and sft.heldout_share):
        return []
    return [f"sft.heldout = {sft.heldout} and sft.heldout_share = {sft.heldout_share:g} both say what is held out: leave one of them out"]


SFT_RULES: tuple[Rule, ...] = (warm_up_can_offload, warm_up_ranks_get_demonstrations, warm_up_epochs_end, warm_up_holds_out_once)


class SftSettings(ServiceSettings):
    """What `oprime sft` reads of a file; all else in it is passed over."""

    rules: ClassVar[tuple[Rule, ...]] = (attention_fits_dtype, *SFT_RULES)

    model: ModelSection
    tasks: TasksSection = TasksSection()
    tracking: TrackingSection = TrackingSection()
    sft: SftSection | None = None
