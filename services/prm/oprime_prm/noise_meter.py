"""Measures how much of the process rewards is rounding: rank 0 computes those of a few rollouts again, with the same weights in float32."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oprime.core.reward_noise import NOISE_RETURN, RewardNoise, reward_noise
from oprime.lm.batches import MicroBatch
from oprime.lm.frozen import FrozenModel
from oprime.ports import TrainEngine
from oprime_prm.config import PrmSection


class NoiseMeter:
    """`begin`, `compute` and `finish` are collective: all ranks know the result, and when it is time to measure anew."""

    def __init__(
        self,
        engine: TrainEngine,
        settings: PrmSection,
        prm: Callable[[], FrozenModel],
        reference: Callable[[], FrozenModel] | None,
    ) -> None:
        """`prm` and `reference` load float32 models, the PRM with any weights; without `reference` the log-probs with which rollouts were
        sampled are taken as they are."""
        self._engine = engine
        self._settings = settings
        self._prm = prm
        self._reference = reference
        self._rollouts: dict[int, MicroBatch] = {}
        self._exact: dict[int, Tensor] = {}
        self._computed: dict[int, Tensor] = {}
        self._measures = False
        self.last: RewardNoise | None = None
        """What was measured last."""

    def begin(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """A new batch. `batches` are micro-batches of this rank, whose places are those of the batch."""
        self._measures = self.last is None or (step - 1) % self._settings.measure_noise_every == 0
        self._rollouts, self._exact, self._computed = {}, {}, {}
        if self._measures and self._engine.rank == 0:
            records = [(place, one, micro.fetcher) for micro in batches for place, one in zip(micro.positions, micro.records, strict=True)]
            self._rollouts = {
                place: MicroBatch(positions=[place], records=[record], fetcher=fetcher)
                for place, record, fetcher in records[: self._settings.noise_rollouts]
            }

    def compute(self) -> None:
        """The exact log-ratios, by the weights that the batch is scored with."""
        if not self._measures:
            return
        weights = self._engine.weights(master=True)
        if self._engine.rank == 0:
            prm = _of_each(self._rollouts, self._with(weights))
            reference = self._reference_logprobs()
            self._exact = {place: prm[place] - reference[place] for place in self._rollouts}
        for _ in weights:
            pass

    def _with(self, weights: Iterator[tuple[str, Tensor]]) -> FrozenModel:
        model = self._prm()
        model.load_weights(weights)
        return model

    def _reference_logprobs(self) -> dict[int, Tensor]:
        if self._reference is not None:
            return _of_each(self._rollouts, self._reference())
        return {place: _trained(micro, micro.behaviour) for place, micro in self._rollouts.items()}

    def note(self, place: int, process_rewards: np.ndarray) -> None:
        """What the rewards of a rollout are."""
        if place in self._rollouts:
            self._computed[place] = torch.from_numpy(process_rewards).double() / self._settings.beta

    def finish(self) -> None:
        """All rewards are noted."""
        if not self._measures:
            return
        found = reward_noise([self._computed[place] for place in self._exact], [exact.double() for exact in self._exact.values()])
        # Only rank 0 has measured; the others add nothing.
        self.last = RewardNoise(*self._engine.all_sum(torch.tensor(astuple(found), dtype=torch.float64)).tolist())

    @property
    def metrics(self) -> dict[str, float]:
        """As last measured."""
        if self.last is None:
            return {}
        return {
            "prm_reward_noise_nats": self.last.nats,
            "prm_reward_signal_to_noise": self.last.signal_to_noise,
            NOISE_RETURN: self._settings.beta * self.last.largest_return,
        }

    def state(self) -> dict[str, Any]:
        return {} if self.last is None else {"noise": list(astuple(self.last))}

    def load_state(self, state: dict[str, Any]) -> None:
        self.last = RewardNoise(*state["noise"]) if "noise" in state else None


def _of_each(rollouts: dict[int, MicroBatch], model: FrozenModel) -> dict[int, Tensor]:
    """Log-probs of what is trained on of each rollout; one pass for each, so that memory does not grow."""
    return {place: _trained(micro, model.logprobs(micro.rows)) for place, micro in rollouts.items()}


def _trained(micro: MicroBatch, values: Tensor) -> Tensor:
    return values[micro.rows.is_trained]
