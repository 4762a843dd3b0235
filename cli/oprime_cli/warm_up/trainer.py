"""The steps of a supervised warm-up: loss and split of the demonstrations over ranks and forward passes."""

import torch
from torch import Tensor

from oprime.core.batching import shard
from oprime.core.token_rows import token_rows_of
from oprime.lm.packing import Packing
from oprime.ports import TrainEngine
from oprime.runtime.errors import RunEndedError
from oprime_cli.run_config import SftSection
from oprime_cli.warm_up.data import Demonstration, Demonstrations


class Trainer:
    """One rank's part of every step. A step's result depends on the engine's state and the step's number alone."""

    def __init__(self, engine: TrainEngine, packing: Packing, settings: SftSection, demonstrations: Demonstrations, *, pad_id: int) -> None:
        self._engine = engine
        self._packing = packing
        self._settings = settings
        self._demonstrations = demonstrations
        self._pad_id = pad_id
        self._learning_rates = settings.learning_rates()

    def step(self, number: int) -> float:
        """Optimizer step `number`, from 1; returns the mean loss per trained token of all ranks, in nats. Collective."""
        first = (number - 1) * self._settings.batch_rows
        batch = [self._demonstrations.at(first + place) for place in range(self._settings.batch_rows)]
        tokens = sum(int(found.is_trained.sum()) for found in batch)
        passes = [[batch[place] for place in places] for places in self._shards(batch)[self._engine.rank]]
        rows = [token_rows_of([one.ids for one in part], [one.is_trained for one in part], pad_id=self._pad_id) for part in passes]
        total = torch.zeros(1, dtype=torch.float64)

        def loss(_index: int, logprobs: Tensor) -> Tensor:
            # Log-probs are 0 where a token is not trained on. Divided by the tokens of the whole step, shares add up however it is split.
            share = -logprobs.sum() / tokens
            total.add_(share.detach().cpu())
            return share

        try:
            self._engine.train_step(rows, loss, learning_rate=self._learning_rates.at(number))
        except RunEndedError as error:
            raise RunEndedError(f"warm-up step {number}: {error}") from error
        return float(self._engine.all_sum(total))

    def _shards(self, batch: list[Demonstration]) -> list[list[list[int]]]:
        settings, lengths = self._settings, [len(found.ids) for found in batch]
        tokens = settings.micro_batch_tokens or settings.micro_batch_rows * settings.max_tokens
        return shard(
            lengths,
            ranks=self._engine.world_size,
            micro_batch_rollouts=settings.micro_batch_rows,
            # Long and short rows share a pass only where nothing is computed on padding.
            micro_batch_tokens=tokens if self._packing.fits(lengths) else 0,
        )
