"""The steps of a supervised fine-tuning: loss and split of the demonstrations over ranks and forward passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oprime.core.batching import shard
from oprime.core.token_rows import TokenRows, token_rows_of
from oprime.lm.conversations import EncodedConversation
from oprime.lm.packing import Packing
from oprime.ports import TrainEngine
from oprime.runtime.errors import RunEndedError
from oprime_cli.model_training.positions import Steps
from oprime_cli.warm_up.config import SftSection
from oprime_cli.warm_up.data import Demonstrations


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Of all demonstrations of a step, from before it."""

    loss: float
    """Mean over the trained tokens of all ranks, in nats."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    trained_tokens: int


class Trainer:
    """One rank's part of every step. A step's result depends on the engine's state and the step's number alone."""

    def __init__(
        self,
        engine: TrainEngine,
        packing: Packing,
        settings: SftSection,
        demonstrations: Demonstrations,
        steps: Steps,
        heldout: Sequence[EncodedConversation] = (),
        *,
        pad_id: int,
    ) -> None:
        self._engine = engine
        self._packing = packing
        self._settings = settings
        self._demonstrations = demonstrations
        self._steps = steps
        self._heldout = heldout
        self._pad_id = pad_id
        self._learning_rates = settings.learning_rates(steps.steps)

    def step(self, number: int) -> StepResult:
        """Optimizer step `number`, from 1. Collective."""
        batch = [self._demonstrations.at(position) for position in self._steps.positions(number)]
        trained = sum(int(found.is_trained.sum()) for found in batch)
        rate = self._learning_rates.at(number)
        total = torch.zeros(1, dtype=torch.float64)

        def loss(_index: int, logprobs: Tensor) -> Tensor:
            # Log-probs are 0 where a token is not trained on. Divided by the tokens of the whole step, shares add up however it is split.
            share = -logprobs.sum() / trained
            total.add_(share.detach().cpu())
            return share

        try:
            norm = self._engine.train_step(self._passes(batch), loss, learning_rate=rate)
        except RunEndedError as error:
            raise RunEndedError(f"fine-tuning step {number}: {error}") from error
        return StepResult(
            loss=float(self._engine.all_sum(total)),
            gradient_norm=norm,
            learning_rate=rate,
            tokens=sum(len(found.ids) for found in batch),
            trained_tokens=trained,
        )

    def heldout_loss(self) -> float:
        """Mean over the trained tokens of the held-out demonstrations, in nats. Collective."""
        total, trained = torch.zeros(1, dtype=torch.float64), 0
        for first in range(0, len(self._heldout), self._settings.batch_rows):
            batch = [self._heldout[place] for place in range(first, min(first + self._settings.batch_rows, len(self._heldout)))]
            trained += sum(int(found.is_trained.sum()) for found in batch)
            for rows in self._passes(batch):
                total -= self._engine.logprobs(rows).double().sum()
        return float(self._engine.all_sum(total)) / trained

    def _passes(self, batch: Sequence[EncodedConversation]) -> list[TokenRows]:
        """This rank's forward passes; every rank has equally many."""
        own = [[batch[place] for place in places] for places in self._shards(batch)[self._engine.rank]]
        return [token_rows_of([one.ids for one in part], [one.is_trained for one in part], pad_id=self._pad_id) for part in own]

    def _shards(self, batch: Sequence[EncodedConversation]) -> list[list[list[int]]]:
        settings, lengths = self._settings, [len(found.ids) for found in batch]
        tokens = settings.micro_batch_tokens or settings.micro_batch_rows * settings.max_tokens
        return shard(
            lengths,
            ranks=self._engine.world_size,
            micro_batch_rollouts=settings.micro_batch_rows,
            # Long and short rows share a pass only where nothing is computed on padding.
            micro_batch_tokens=tokens if self._packing.fits(lengths) else 0,
        )
