"""Where the training of one model stands: its lock, its resumable states, and whether it is finished."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from oprime.lm.checkpoints import begin_part, complete_part, newest_complete, prune_checkpoints, verify_part
from oprime.runtime.errors import CheckpointError, SettingsError
from oprime_cli.files import read_json, write_json
from oprime_cli.lock_file import sole_holder

PART = "model"
TRACKING = "tracking"
"""What trackers keep, in the folder of an unfinished training and then in the finished model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """The command that trains a model, as its files and messages name it."""

    command: str
    section: str
    """The section of settings, whose `output` names the directory."""
    what: str
    """What the training is called in messages, with its article."""

    @property
    def record(self) -> str:
        """In a finished model's directory, and in every state before: the settings that made it."""
        return f"{self.section}.json"

    @property
    def rows(self) -> str:
        """Beside it: a line per step and evaluation."""
        return f"{self.section}.jsonl"


SFT = Maker(command="oprime sft", section="sft", what="a fine-tuning")


class ModelFolder:
    """The output directory, and a hidden one beside it for what is not finished."""

    def __init__(self, output: Path, identity: Mapping[str, Any], maker: Maker) -> None:
        """`identity` is everything that decides the result."""
        self.output = output.absolute()
        self._identity = json.loads(json.dumps(identity))
        self._maker = maker
        self._setting = f"{maker.section}.output"
        self._work = self.output.parent / f".{self.output.name}.{maker.section}"

    @property
    def rows(self) -> Path:
        """What an unfinished training says of its steps."""
        return self._work / self._maker.rows

    @property
    def tracking(self) -> Path:
        """What trackers keep of an unfinished training."""
        return self._work / TRACKING

    def finished(self) -> bool:
        """Whether the output is there. Raises SettingsError when it was made otherwise or is not ours."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return False
        record = read_json(self.output / self._maker.record)
        if record is None:
            raise SettingsError(
                f"{self._setting} = {self.output} exists and was not made by `{self._maker.command}`: choose another directory, or "
                "remove this one"
            )
        self._require_same(record, f"{self._setting} = {self.output} is finished, but", f"choose another {self._setting} or remove it")
        shutil.rmtree(self._work, ignore_errors=True)
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Raises BusyError while another process trains into the same output."""
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError.unwritable(self._work, error) from error
        busy, remedy = f"another `{self._maker.command}` is making {self.output}", f"wait for it, or choose another {self._setting}"
        with sole_holder(self._work / "lock", busy=busy, remedy=remedy):
            yield

    def begin_state(self, step: int) -> Path:
        """An empty directory for the state after `step` steps."""
        return begin_part(self._work, step, PART)

    def complete_state(self, directory: Path, step: int) -> None:
        """Make what was written into `directory` the state to resume from; the one before goes once this one is whole."""
        write_json(directory / self._maker.record, {"identity": self._identity})
        complete_part(directory, step)
        prune_checkpoints(self._work, (PART,), keep=1)

    def newest_state(self) -> tuple[int, Path] | None:
        """Step and directory of the newest state, if there is one. Raises SettingsError if it was made otherwise, CheckpointError if it is
        damaged."""
        newest = newest_complete(self._work, (PART,))
        if newest is None:
            return None
        step, directory = newest[0], newest[1] / PART
        verify_part(directory)
        record = read_json(directory / self._maker.record) or {}
        self._require_same(record, f"{self._work} holds {self._maker.what} that was begun, but", f"remove {self._work} to begin anew")
        return step, directory

    def finish(self, write: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Make the output directory exist, complete, with the model that `write` puts into the directory that it is given."""
        whole = self._work / "model"
        shutil.rmtree(whole, ignore_errors=True)
        try:
            whole.mkdir()
            write(whole)
            write_json(whole / self._maker.record, {"identity": self._identity, **facts})
            if self.rows.exists():
                shutil.copyfile(self.rows, whole / self._maker.rows)
            for path in whole.iterdir():
                # Weights are written for their owner alone; services may run as another user.
                path.chmod(0o644)
                _to_disk(path)
            if self.tracking.exists():
                shutil.copytree(self.tracking, whole / TRACKING)
            whole.rename(self.output)
        except (OSError, SafetensorError) as error:
            cause = error if isinstance(error, OSError) else OSError(0, str(error))
            raise CheckpointError.unwritable(self.output, cause) from error
        shutil.rmtree(self._work, ignore_errors=True)

    def _require_same(self, record: Mapping[str, Any], what: str, remedy: str) -> None:
        other: Any = record.get("identity")
        other = other if isinstance(other, dict) else {}
        differing = [name for name in self._identity if self._identity[name] != other.get(name)]
        if differing:
            shown = ", ".join(f"{name} was {other.get(name)!r} and is {self._identity[name]!r}" for name in differing[:3])
            raise SettingsError(f"{what} with other settings ({shown}): {remedy}")


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
