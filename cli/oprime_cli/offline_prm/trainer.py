"""The steps of an offline implicit PRM: those of a run's PRM (`oprime_prm.implicit_prm`), on batches of a file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from oprime.core.types import Batch, FinishReason, Rollout, RolloutRecord, Segment, VerifiedGroup, VerifiedRollout, untrained
from oprime.core.verification import scored
from oprime.lm.batches import MicroBatch
from oprime.lm.frozen import FrozenModel
from oprime.ports import TrainEngine
from oprime_cli.model_training.positions import Steps
from oprime_cli.offline_prm.data import LabelledGroups, LabelledTokens
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Of all responses of a step, from before it."""

    loss: float
    accuracy: float
    """Share of responses whose score has the sign of their label."""
    pairwise_accuracy: float
    """Share of pairs of responses to one prompt that the scores order as the labels do."""


class OfflineTrainer:
    """One rank's part of every step. A step's result depends on the engine's state and the step's number alone."""

    def __init__(
        self, engine: TrainEngine, reference: FrozenModel, groups: LabelledGroups, settings: PrmSection, steps: Steps, *, pad_id: int
    ) -> None:
        self._groups = groups
        self._steps = steps
        self._reference = OncePerStep(reference)
        self._rollouts: dict[str, Rollout] = {}
        self._prm = ImplicitPrm(engine, self._contents, self._reference, settings, pad_id=pad_id, total_steps=steps.steps)

    def step(self, number: int) -> StepResult:
        """Optimizer step `number`, from 1. Collective."""
        batch = self._batch(number)
        self._reference.forget()
        self._prm.load_state({"version": number - 1})
        metrics = self._prm.process(batch, emit=lambda place, rewards: None).metrics
        return StepResult(loss=metrics["prm_loss"], accuracy=metrics["prm_accuracy"], pairwise_accuracy=metrics["prm_pairwise_accuracy"])

    def _batch(self, number: int) -> Batch:
        self._rollouts = {}
        return Batch(step=number, groups=tuple(self._group(position) for position in self._steps.positions(number)))

    def _group(self, position: int) -> VerifiedGroup:
        # The position, not the prompt, names a group: two epochs may meet in one step.
        return VerifiedGroup(
            group_id=position, rollouts=tuple(self._verified(position, index, one) for index, one in enumerate(self._groups.at(position)))
        )

    def _verified(self, position: int, index: int, one: LabelledTokens) -> VerifiedRollout:
        name = f"{position}:{index}"
        response = Segment(token_ids=one.response_ids, trained=True, logprobs=np.zeros(len(one.response_ids), dtype=np.float32))
        rollout = Rollout(
            group_id=position,
            index=index,
            seed=0,
            segments=(untrained(one.prompt_ids), response),
            text="",
            finish_reason=FinishReason.STOP,
        )
        self._rollouts[name] = rollout
        return VerifiedRollout(rollout=rollout.record(payload=name, text=""), outcome=scored(one.outcome_reward))

    def _contents(self, records: Sequence[RolloutRecord]) -> list[Rollout]:
        return [self._rollouts[record.payload] for record in records]


class OncePerStep:
    """The reference's log-probs of micro-batches, computed once although loss and scores both ask for them."""

    def __init__(self, frozen: FrozenModel) -> None:
        self._frozen = frozen
        self._known: dict[tuple[str, ...], Tensor] = {}

    def forget(self) -> None:
        self._known = {}

    def __call__(self, micro: MicroBatch) -> Tensor:
        key = tuple(record.payload for record in micro.records)
        if key not in self._known:
            self._known[key] = self._frozen.logprobs(micro.rows)
        return self._known[key]
