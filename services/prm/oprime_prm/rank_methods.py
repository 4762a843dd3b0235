"""What all ranks of the PRM do together, each call with the same payload."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from oprime.core.types import Batch
from oprime.lm.checkpoints import begin_part, checkpoint_root, complete_part, newest_complete, verify_part
from oprime.lm.lora import in_adapter_file
from oprime.ports import Payloads, TrainEngine, WeightStore
from oprime.runtime.errors import RunEndedError, UnusableInputError
from oprime.runtime.ranks import RankChannel
from oprime.runtime.rollout_payloads import RewardWriter
from oprime.wire.codec import batch_from_proto
from oprime_prm.config import PrmSettings
from oprime_prm.implicit_prm import Emit, ImplicitPrm, Scored
from oprime_prm.references import References, units_from_bytes
from oprime_prm.serving import ServingPrm
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

SERVE = "serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What every rank holds."""

    channel: RankChannel
    engine: TrainEngine
    prm: ImplicitPrm
    serving: ServingPrm | None
    """On rank 0."""
    tokenizer: PreTrainedTokenizerBase
    end_id: int
    longest: int
    store: WeightStore
    """Published PRM versions, one per checkpoint."""
    payloads: Payloads
    references: References | None
    """None where the policy is the reference: the log-probs with which each rollout was sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredShares:
    scored: Scored
    process_rewards: tuple[str, ...]
    """On rank 0, the names of what all ranks wrote."""


@dataclass(frozen=True, slots=True)
class FiniteRewards:
    """Passes rewards on that a policy can be trained on, and raises RunEndedError for others."""

    batch: Batch
    emit: Emit

    def __call__(self, place: int, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            kind = "rollout" if place < len(self.batch.rollouts) else "greedy baseline"
            name = (*self.batch.rollouts, *self.batch.baselines)[place].rollout.rollout_id
            raise RunEndedError(
                f"a process reward of {kind} {name} is {values[~np.isfinite(values)][0]}: look for infinite log-probs in this batch, or "
                "lower prm.learning_rate before you resume"
            )
        self.emit(place, values)


class RankMethods:
    """`by_name` is for `Ranks`; the rest prepares its calls, on rank 0."""

    def __init__(self, models: Models, settings: PrmSettings) -> None:
        self.models = models
        self._settings = settings
        self._root = checkpoint_root(settings.run.folder)
        self._served = 0
        """Version of the copy that answers requests, where scores have no copy of their own. The same on every rank."""

    @property
    def by_name(self) -> dict[str, Callable[[bytes], Any]]:
        return {
            "refer": self.refer,
            "process": self.process,
            SERVE: self.serve,
            "skip": self.skip,
            "save": self.save,
            "load": self.load,
        }

    def refer(self, payload: bytes) -> dict[str, str]:
        """Compute the reference log-probs of units of rollouts; on rank 0, their names by the rollouts' own."""
        assert self.models.references is not None  # noqa: S101 - rank 0 asks only where there is a reference
        written = self.models.references.compute(units_from_bytes(payload))
        shares = self.models.engine.gather(json.dumps(written).encode()) or []
        return {rollout: name for share in shares for rollout, name in json.loads(share).items()}

    def process_call(self, batch: bytes, references: Mapping[str, str]) -> bytes:
        """On rank 0: the call of `process`, for the entry of a batch."""
        serves = self.models.serving is not None and self.models.serving.was_asked()
        return json.dumps({"references": dict(references), "serves": serves}).encode() + b"\n" + batch

    def process(self, payload: bytes) -> ScoredShares:
        """Update on a batch and score it; then let requests see the new version, if there were any since the batch before."""
        head, _, entry = payload.partition(b"\n")
        call, batch = json.loads(head), batch_from_proto(pb.Batch.FromString(entry))
        if self.models.references is not None:
            self.models.references.use(call["references"])
        writer = RewardWriter(self.models.payloads, batch.step)
        try:
            scored = self.models.prm.process(batch, FiniteRewards(batch, writer.add))
        except (RunEndedError, UnusableInputError) as error:
            raise RunEndedError(f"train step {batch.step}: {error}") from error
        shares = self.models.engine.gather(json.dumps(writer.finish()).encode()) or []
        self._show(batch.step, serves=call["serves"])
        return ScoredShares(scored=scored, process_rewards=tuple(name for share in shares for name in json.loads(share)))

    def skip(self, payload: bytes) -> int:
        """Pass over the batch of the step that `payload` says; returns the version."""
        self.models.prm.skip()
        self._show(int(payload), serves=False)
        return self.models.prm.version

    def new_checkpoint(self, step: int) -> bytes:
        """On rank 0: the call of `save`, with a fresh directory to write into."""
        return json.dumps({"step": step, "directory": str(begin_part(self._root, step, "prm"))}).encode()

    def save(self, payload: bytes) -> None:
        """Checkpoint as `new_checkpoint` says, and publish the PRM of that step in Hugging Face form."""
        call = json.loads(payload)
        step, part = int(call["step"]), Path(call["directory"])
        self.models.engine.save(part)
        if self.models.engine.rank == 0:
            (part / "prm.json").write_text(json.dumps(self.models.prm.state()), encoding="utf-8")
            complete_part(part, step)
        if not self._is_shown(step):
            self._publish(step)

    def newest_checkpoint(self) -> bytes:
        """On rank 0: the call of `load`, for the newest checkpoint; empty without one."""
        newest = newest_complete(self._root, ("prm",))
        return json.dumps({"step": newest[0], "directory": str(newest[1] / "prm")}).encode() if newest else b""

    def load(self, payload: bytes) -> int:
        """Load the checkpoint that `newest_checkpoint` says; returns its step, 0 without one."""
        if not payload:
            self._show_loaded(0)
            return 0
        call = json.loads(payload)
        step, part = int(call["step"]), Path(call["directory"])
        verify_part(part)
        self.models.engine.load(part)
        self.models.prm.load_state(json.loads((part / "prm.json").read_text(encoding="utf-8")))
        self._show_loaded(step)
        log.info("checkpoint_loaded", step=step)
        return step

    def serve(self, payload: bytes = b"") -> None:
        """Give the newest weights to the copy that answers requests, if it has others."""
        version = self.models.prm.version
        if self.models.prm.scores_apart or self._served == version:
            return
        engine, has_adapters = self.models.engine, self._settings.prm.copy_has_adapters(self._settings.model)
        weights = engine.trained_weights() if has_adapters else engine.weights()
        if self.models.serving is not None:
            self.models.serving.refresh(weights, version)
        exhaust(weights)
        self._served = version

    def _show(self, step: int, *, serves: bool) -> None:
        """Let requests see the version of a step. A PRM that is not trained has none but that of its start."""
        if self._settings.prm.update == "offline":
            return
        if self._is_shown(step):
            self._publish(step)
        if serves:
            self.serve()
        self._note()

    def _note(self) -> None:
        if self.models.serving is not None:
            self.models.serving.note(self.models.prm.version)

    def _is_shown(self, step: int) -> bool:
        """Whether replicas are given the version of a step once its batch is scored. The same on every rank."""
        scoring = self._settings.scoring
        return scoring.replicas > 0 and self._settings.prm.update != "offline" and step % scoring.publish_every == 0

    def _show_loaded(self, step: int) -> None:
        """Let requests see the version of a checkpoint. Versions of steps after it are repeated, so replicas may not keep to them."""
        self._note()
        if self._settings.scoring.replicas and self.models.engine.rank == 0:
            versions = self.models.store.versions()
            self.models.store.prune(keep={version for version in versions if version <= step}, newest=0)

    def _publish(self, step: int) -> None:
        """Write a version in Hugging Face form, and remove those that neither checkpoints nor replicas need any more."""
        engine, settings = self.models.engine, self._settings
        if settings.prm.lora.publishes_adapters:
            weights = in_adapter_file(engine.trained_weights())
        else:
            weights = engine.published_weights(master=settings.prm.published_in(settings.model) == "float32")
        if engine.rank != 0:
            exhaust(weights)
            return
        store, run = self.models.store, self._settings.run
        store.publish(step, weights, parent=None)
        checkpoints = [version for version in store.versions() if version % run.checkpoint_every == 0 or version == run.steps]
        newest = self._settings.scoring.versions if self._settings.scoring.replicas else 0
        store.prune(keep=set(checkpoints[-run.keep_checkpoints :]), newest=newest)


def exhaust(weights: Iterator[tuple[str, Tensor]]) -> None:
    """Take part in a collective export whose tensors another rank uses."""
    for _ in weights:
        pass
