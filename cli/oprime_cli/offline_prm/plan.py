"""What `oprime prm train` will make, from which model and data; everything that can be wrong before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oprime.runtime.errors import SettingsError
from oprime_cli.model_training.folder import Maker, ModelFolder
from oprime_cli.offline_prm.config import OfflinePrmSection, OfflinePrmSettings
from oprime_cli.overrides import service_document

MAKER = Maker(command="oprime prm train", section="offline_prm", what="an offline PRM")
MAY_CHANGE = frozenset(
    ("start", "reference_model", "output", "data", "save_every", "micro_batch_rollouts", "micro_batch_tokens", "packing", "zero_stage")
) | {"offload_optimizer", "logprob_chunk_tokens", "ranks", "device", "threads", "skip_bad_rows"}
"""Where things are, memory and speed: what an unfinished training may have otherwise when it goes on."""


@dataclass(frozen=True, slots=True)
class OfflinePrm:
    config: OfflinePrmSettings
    start: str
    """Directory or hub id of the model to begin with."""
    reference: str
    """The same of the frozen reference."""
    folder: ModelFolder

    @property
    def settings(self) -> OfflinePrmSection:
        return self.config.offline_prm


def read_plan(path: Path, overrides: list[str]) -> OfflinePrm:
    """From the sections [model] and [offline_prm] of a file, and [tasks] for the built-in task. Raises SettingsError."""
    document = service_document(path, overrides)
    if "offline_prm" not in document:
        raise SettingsError(f"{path} has no section [offline_prm]: add it, with data and output (docs/prm.md)")
    return plan_offline_prm(OfflinePrmSettings.from_document(document, origin=str(path)))


def plan_offline_prm(config: OfflinePrmSettings) -> OfflinePrm:
    """Raises SettingsError for settings that cannot work."""
    settings = config.offline_prm
    problems: list[str] = []
    if not settings.output:
        problems.append("offline_prm.output is empty: name the directory of the resulting model")
    if not settings.data and config.tasks.source != "chain":
        problems.append('offline_prm.data is empty: name a JSONL or parquet file (only tasks.source = "chain" has a teacher built in)')
    if not settings.data and not settings.steps:
        problems.append("offline_prm.steps = 0 with the chain task's teacher, whose problems never end: set offline_prm.steps=300")
    start = settings.start or config.model.path
    if settings.output and Path(settings.output) == Path(start):
        problems.append(f"offline_prm.output and the model to begin with are both {start}: name another offline_prm.output")
    if problems:
        raise SettingsError("; ".join(problems))
    reference = settings.reference_model or start
    return OfflinePrm(config, start, reference, ModelFolder(Path(settings.output), _identity(config, start, reference), MAKER))


def _identity(config: OfflinePrmSettings, start: str, reference: str) -> dict[str, Any]:
    """Everything that decides the resulting weights."""
    settings = config.offline_prm
    passed_over = MAY_CHANGE if settings.lora.rank else MAY_CHANGE | {"lora"}
    identity = {f"offline_prm.{name}": value for name, value in settings.model_dump(exclude=set(passed_over)).items()}
    identity |= {"model to begin with": Path(start).name, "reference": Path(reference).name, "model.dtype": config.model.dtype}
    if settings.data:
        path = Path(settings.data)
        return identity | {"offline_prm.data": path.name, "size of offline_prm.data": path.stat().st_size if path.is_file() else None}
    chain = config.tasks.chain
    return identity | {"tasks.chain.operations": chain.operations, "tasks.chain.teacher_seed": chain.teacher_seed}
