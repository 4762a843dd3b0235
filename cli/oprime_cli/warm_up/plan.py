"""What a supervised fine-tuning will make, from which model and in which folder; everything that can be wrong before torch is loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from oprime.runtime.errors import SettingsError
from oprime.runtime.setting_rules import attention_fits_dtype
from oprime.runtime.settings import ModelSection, TasksSection, TrackingSection
from oprime_cli.model_training.folder import SFT as MAKER
from oprime_cli.model_training.folder import ModelFolder
from oprime_cli.overrides import service_document
from oprime_cli.running.changes import SFT
from oprime_cli.warm_up.config import SFT_RULES, SftSection, SftSettings

NEW_MODEL = "a new tiny model"


class WarmUpSettings(Protocol):
    """The sections that are read, of a run's settings or of a file that has no more."""

    @property
    def model(self) -> ModelSection: ...

    @property
    def tasks(self) -> TasksSection: ...

    @property
    def tracking(self) -> TrackingSection: ...

    @property
    def sft(self) -> SftSection | None: ...


@dataclass(frozen=True, slots=True)
class WarmUp:
    config: WarmUpSettings
    settings: SftSection
    start: str
    """Directory or hub id of the model to begin with, or NEW_MODEL."""
    folder: ModelFolder

    @property
    def makes_a_model(self) -> bool:
        return self.start == NEW_MODEL


def read_settings(path: Path, overrides: list[str]) -> SftSettings:
    """The sections [model], [sft], [tasks] and [tracking] of a file. Raises SettingsError."""
    return SftSettings.from_document(service_document(path, overrides), origin=str(path))


def plan_warm_up(config: WarmUpSettings) -> WarmUp:
    """Raises SettingsError for settings that cannot work."""
    settings = _settings(config)
    start, output = _start(config, settings), settings.output or config.model.path
    if start == str(Path(output)):
        raise SettingsError(f"sft.output and the model to begin with are both {start}: name another sft.output, or another sft.start")
    return WarmUp(config, settings, start, ModelFolder(Path(output), _identity(config, settings, start), MAKER))


def beyond_positions(asked: int, context: int, start: str) -> str:
    """What is said of rows that are longer than a model's context."""
    return f"sft.max_tokens = {asked} is more than the {context} positions that {start} was made for: longer rows are new to it"


def _settings(config: WarmUpSettings) -> SftSection:
    settings = config.sft
    if settings is None:
        raise SettingsError("these settings have no section [sft]: add it to make a starting model, or go straight to `oprime train`")
    problems = [*attention_fits_dtype(config.model), *(problem for rule in SFT_RULES for problem in rule(sft=settings))]
    if not settings.demonstrations and config.tasks.source != "chain":
        problems.append('sft.demonstrations is empty: name a JSONL or parquet file (only tasks.source = "chain" has a teacher built in)')
    if problems:
        raise SettingsError("; ".join(problems))
    return settings


def _start(config: WarmUpSettings, settings: SftSection) -> str:
    if settings.start:
        return settings.start
    makes_model_path = Path(settings.output or config.model.path) == Path(config.model.path)
    is_new = not settings.demonstrations and (makes_model_path or not Path(config.model.path).exists())
    return NEW_MODEL if is_new else str(Path(config.model.path))


def _identity(config: WarmUpSettings, settings: SftSection, start: str) -> dict[str, Any]:
    """Everything that decides the resulting weights."""
    passed_over = {"start", "output", "demonstrations", "chat_template", *SFT, *([] if settings.lora.rank else ["lora"])}
    identity = {f"sft.{name}": value for name, value in settings.model_dump(exclude=passed_over).items()}
    identity |= {"model to begin with": Path(start).name, "model.dtype": config.model.dtype}
    template = Path(settings.chat_template)
    if settings.chat_template and template.is_file():
        identity |= {"checksum of sft.chat_template": hashlib.sha256(template.read_bytes()).hexdigest()}
    if settings.demonstrations:
        path = Path(settings.demonstrations)
        return identity | {"sft.demonstrations": path.name, "size of sft.demonstrations": path.stat().st_size if path.is_file() else None}
    chain = config.tasks.chain
    return identity | {"tasks.chain.operations": chain.operations, "tasks.chain.teacher_seed": chain.teacher_seed}
