"""Where a supervised warm-up stands: its lock, its resumable state, and whether it is finished."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from oprime.runtime.errors import CheckpointError, SettingsError
from oprime_cli.files import read_json, write_json
from oprime_cli.running.failures import RunBusyError

RECORD = "sft.json"
"""In a finished model's directory: the settings that made it."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class SftFolder:
    """The output directory, and a hidden one beside it for what is not finished."""

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        """`identity` is everything that decides the result."""
        self.output = output.absolute()
        self._identity = json.loads(json.dumps(identity))
        self._work = self.output.parent / f".{self.output.name}.sft"

    def finished(self) -> bool:
        """Whether the output is there. Raises SettingsError when it was made otherwise or is not ours."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return False
        record = read_json(self.output / RECORD)
        if record is None:
            raise SettingsError(
                f"sft.output = {self.output} exists and was not made by `oprime sft`: choose another directory, or remove this one"
            )
        self._require_same(record.get("identity"), f"sft.output = {self.output} is finished, but", "choose another sft.output or remove it")
        shutil.rmtree(self._work, ignore_errors=True)
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Raises RunBusyError while another process trains into the same output."""
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError.unwritable(self._work, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise RunBusyError(f"another `oprime sft` is making {self.output}: wait for it, or choose another sft.output") from error
        finally:
            os.close(handle)

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write weights and moments after `step` steps; the file before stays until this one is whole."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment].cpu().contiguous()
        half = self._work / "state.half"
        try:
            save_file(tensors, half, metadata={"step": str(step), "identity": json.dumps(self._identity)})
            _to_disk(half)
            half.replace(self._state)
        except (OSError, SafetensorError) as error:
            raise _unwritable(self._state, error) from error

    @torch.no_grad()
    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Take up the saved state; returns its step, 0 when there is none. Raises SettingsError or CheckpointError."""
        if not self._state.exists():
            return 0
        try:
            with safe_open(self._state, framework="pt") as file:
                metadata = file.metadata()
                remedy = f"remove {self._work} to begin anew"
                self._require_same(json.loads(metadata["identity"]), f"{self._work} holds a warm-up that was begun, but", remedy)
                step = int(metadata["step"])
                for name, parameter in model.named_parameters():
                    parameter.copy_(file.get_tensor(f"weight/{name}"))
                    state = {moment: file.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in MOMENTS}
                    optimizer.state[parameter] = {"step": torch.tensor(float(step)), **state}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{self._state} is damaged ({error}): remove {self._work} to begin anew") from error
        return step

    def finish(self, model: Any, tokenizer: Any, facts: Mapping[str, Any]) -> None:
        """Make the output directory exist, complete."""
        whole = self._work / "model"
        shutil.rmtree(whole, ignore_errors=True)
        try:
            model.save_pretrained(str(whole))
            tokenizer.save_pretrained(str(whole))
            write_json(whole / RECORD, {"identity": self._identity, **facts})
            for path in whole.iterdir():
                # Weights are written for their owner alone; services may run as another user.
                path.chmod(0o644)
                _to_disk(path)
            whole.rename(self.output)
        except (OSError, SafetensorError) as error:
            raise _unwritable(self.output, error) from error
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def _state(self) -> Path:
        return self._work / "state.safetensors"

    def _require_same(self, other: Any, what: str, remedy: str) -> None:
        other = other if isinstance(other, dict) else {}
        differing = [name for name in self._identity if self._identity[name] != other.get(name)]
        if differing:
            shown = ", ".join(f"{name} was {other.get(name)!r} and is {self._identity[name]!r}" for name in differing[:3])
            raise SettingsError(f"{what} with other settings ({shown}): {remedy}")


def _unwritable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, OSError):
        return CheckpointError.unwritable(path, error)
    return CheckpointError(f"{path} cannot be written: {error}. Free some space; what was saved before is untouched")


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
