"""The critic's share of a train step (PPO), the same on every rank: values before the update, then the value loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oprime.core.critic import explained_variance, value_loss
from oprime.core.token_rows import response_matrix
from oprime.core.types import Batch
from oprime.lm.batches import RowFetcher, RowsOf, by_place
from oprime.ports import TrainEngine
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import CriticSection
from oprime_learner.parts import Part, parts_of


class CriticTrainer:
    """V with its optimizer. Both methods are collective."""

    def __init__(self, engine: TrainEngine, algorithm: AlgorithmSection, settings: CriticSection, *, total_steps: int) -> None:
        self._engine = engine
        self._algorithm = algorithm
        self._settings = settings
        self._learning_rates = settings.learning_rates(total_steps)

    def values(self, batch: Batch, fetcher: RowFetcher) -> list[Tensor]:
        """V of what precedes every token that is trained on, one tensor per rollout: on every rank those of all rollouts."""
        lengths = [verified.rollout.trained_tokens for verified in batch.rollouts]
        rows = torch.zeros(len(lengths), max(lengths))
        for part in self._parts(batch, fetcher):
            for micro in part.batches:
                for place, row in by_place([micro], [self._engine.values(micro.rows)], first=part.first):
                    rows[place, : len(row)] = row
        # Every value is one rank's, so the sum is exact.
        every = self._engine.all_sum(rows)
        return [row[:length] for row, length in zip(every, lengths, strict=True)]

    def update(self, batch: Batch, fetcher: RowFetcher, values: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
        """Optimizer steps on the value loss towards `targets`; `values` are those from before the update. Returns the metrics."""
        rate = self._learning_rates.at(batch.step)
        steps = [self._optimizer_step(part, values, targets, rate) for part in self._parts(batch, fetcher)]
        loss, clipped = self._engine.all_sum(torch.stack([sums for sums, _ in steps]).sum(0)).tolist()
        before, wanted = (torch.cat(list(rows)).double() for rows in (values, targets))
        return {
            "critic_loss": loss / len(steps),
            "critic_clipped_tokens_ratio": clipped / len(before),
            "critic_explained_variance": explained_variance(before[None], wanted[None], torch.ones(1, len(before), dtype=torch.bool)),
            "critic_value_mean": float(before.mean()),
            "critic_gradient_norm": sum(norm for _, norm in steps) / len(steps),
            "critic_learning_rate": rate,
        }

    def _parts(self, batch: Batch, fetcher: RowFetcher) -> list[Part]:
        return parts_of(batch, fetcher, self._engine, self._settings, mask_truncated=self._algorithm.mask_truncated)

    def _optimizer_step(self, part: Part, values: Sequence[Tensor], targets: Sequence[Tensor], rate: float) -> tuple[Tensor, float]:
        """This rank's sums of loss and clipped tokens, and the gradient norm."""
        sums = torch.zeros(2, dtype=torch.float64)

        def loss(index: int, current: Tensor) -> Tensor:
            batch, device = part.batches[index], current.device
            is_trained = batch.rows.is_trained
            before, wanted = (response_matrix([rows[place] for place in part.places(batch)], is_trained) for rows in (values, targets))
            result = value_loss(
                current,
                before.to(device),
                wanted.to(device),
                is_trained.to(device),
                part.shares(batch, self._algorithm).to(device),
                clip=self._settings.value_clip or None,
            )
            sums.add_(torch.tensor([float(result.loss.detach()), result.clipped_tokens], dtype=torch.float64))
            return result.loss

        norm = self._engine.train_step(RowsOf(part.batches), loss, learning_rate=rate)
        return sums, norm
