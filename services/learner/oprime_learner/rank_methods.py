"""What all ranks of the learner do together, each call with the same payload."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from oprime.core.reward_noise import NOISE_RETURN
from oprime.core.types import ProcessRewards
from oprime.lm.checkpoints import CRITIC, begin_part, checkpoint_root, complete_part, newest_for_run, verify_part
from oprime.lm.lora import in_adapter_file
from oprime.ports import Payloads, TrainEngine, WeightStore
from oprime.runtime.errors import RunEndedError, SettingsError, UnusableInputError
from oprime.runtime.ranks import RankChannel
from oprime.runtime.rollout_payloads import read_rewards
from oprime.runtime.weight_transfer import Transfer
from oprime_learner.config import LearnerSettings
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.samples import write_learned
from oprime_learner.source import source_of

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()


class WeightSender(Protocol):
    def send(self, transfer: Transfer, weights: Iterator[tuple[str, "torch.Tensor"]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What every rank holds."""

    channel: RankChannel
    engine: TrainEngine
    critic_engine: TrainEngine | None
    """PPO's."""
    trainer: PolicyTrainer
    store: WeightStore
    payloads: Payloads
    sender: WeightSender | None = None
    """Sends versions to generators, besides the store."""

    @property
    def parts(self) -> dict[str, TrainEngine]:
        """What a checkpoint of this service holds, by name."""
        return {"policy": self.engine} | ({} if self.critic_engine is None else {CRITIC: self.critic_engine})


class RankMethods:
    """`by_name` is for `Ranks`; the rest prepares its calls, on rank 0."""

    def __init__(self, models: Models, settings: LearnerSettings) -> None:
        self.models = models
        self._settings = settings
        self._root = checkpoint_root(settings.run.folder)
        self.published: dict[str, tuple[str, tuple[int, ...]]] = {}
        """On rank 0: type and shape of each tensor of a version, in the order in which the engine gives them."""

    @property
    def by_name(self) -> dict[str, Callable[[bytes], Any]]:
        return {"process": self.process, "publish": self.publish, "send": self.send, "save": self.save, "load": self.load}

    def process(self, payload: bytes) -> dict[str, float]:
        """Train on one batch."""
        scored = source_of(self._settings.algorithm).decoded(payload)
        batch = scored.batch
        needs_prm = self._settings.algorithm.needs_prm
        try:
            rewards = read_rewards(self.models.payloads, scored.process_rewards, batch) if needs_prm else ProcessRewards()
            metrics = self.models.trainer.process(batch, rewards, noise_return=scored.metrics.get(NOISE_RETURN, 0.0))
        except (RunEndedError, UnusableInputError) as error:
            raise RunEndedError(f"train step {batch.step}: {error}") from error
        if needs_prm:  # The PRM writes their text.
            write_learned(self._settings.run.folder / "samples", batch, self.models.trainer.learned)
        return metrics

    def publish(self, payload: bytes) -> None:
        """Make the weights after step `payload` exist as a version; one that exists already stays as it is.

        After a crash a step is repeated whose version may be published: others have sampled with it, so it stays, and where the
        repetition differs by rounding the store says so. The learner goes on from its own weights, which are float32 and fit its
        optimizer's moments; that rollouts come from slightly other weights is what importance weights correct.
        """
        version, engine = int(payload), self.models.engine
        adapters = self._settings.learner.lora.publishes_adapters
        weights = in_adapter_file(engine.trained_weights()) if adapters else engine.published_weights()
        if engine.rank == 0:
            self.models.store.publish(version, self._noted(weights), parent=version - 1)
        for _ in weights:
            pass

    def _noted(self, weights: Iterator[tuple[str, "torch.Tensor"]]) -> Iterator[tuple[str, "torch.Tensor"]]:
        for name, tensor in weights:
            dtype = self._settings.model.dtype if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
            self.published[name] = (dtype, tuple(tensor.shape))
            yield name, tensor

    def send(self, payload: bytes) -> None:
        """Give the generators that a transfer names the weights as they are now. The store has them: that nobody took them ends nothing."""
        weights = self.models.engine.published_weights()
        if self.models.engine.rank == 0 and self.models.sender is not None:
            transfer = Transfer.from_json(payload)
            try:
                self.models.sender.send(transfer, weights)
            except SettingsError:
                raise
            except Exception as error:  # noqa: BLE001 - NCCL and vLLM raise what they like
                log.warning("weights_not_sent", weight_version=transfer.version, error=f"{type(error).__name__}: {error}")
        for _ in weights:
            pass

    def new_checkpoint(self, step: int) -> bytes:
        """On rank 0: the call of `save`, with a fresh directory for each part."""
        return json.dumps({"step": step, "parts": {name: str(begin_part(self._root, step, name)) for name in self.models.parts}}).encode()

    def save(self, payload: bytes) -> None:
        """Checkpoint as `new_checkpoint` says."""
        call = json.loads(payload)
        for name, engine in self.models.parts.items():
            part = Path(call["parts"][name])
            engine.save(part)
            if engine.rank == 0:
                complete_part(part, int(call["step"]))

    def newest_checkpoint(self) -> bytes:
        """On rank 0: the call of `load`, for the newest checkpoint; empty without one."""
        newest = newest_for_run(self._root, tuple(self.models.parts))
        return json.dumps({"step": newest[0], "directory": str(newest[1])}).encode() if newest else b""

    def load(self, payload: bytes) -> int:
        """Load the checkpoint that `newest_checkpoint` says and publish its weights if need be; returns its step, 0 without one."""
        if not payload:
            if self.models.engine.rank == 0:
                self.models.store.publish_directory(0, Path(self._settings.model.path))
            return 0
        call = json.loads(payload)
        step, directory = int(call["step"]), Path(call["directory"])
        for name, engine in self.models.parts.items():
            verify_part(directory / name)
            engine.load(directory / name)
        self.publish(str(step).encode())
        log.info("checkpoint_loaded", step=step)
        return step
