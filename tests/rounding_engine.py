"""A plain engine that computes in bfloat16 and trains float32 master weights, as DeepSpeed does."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from oprime.core.token_rows import TokenRows
from oprime.lm.token_logprobs import TokenLogprobModel
from plain_engine import Exchange, RankedEngine
from tiny_models import tiny_model, with_weights_in


class RoundingEngine(RankedEngine):
    def __init__(self, exchange: Exchange | None = None, rank: int = 0) -> None:
        model = TokenLogprobModel(with_weights_in(tiny_model(), torch.bfloat16), chunk_tokens=7)
        super().__init__(model, exchange or Exchange(1), rank, gradient_clip=10.0)
        self._masters = dict(tiny_model().named_parameters())
        self._optimizer = torch.optim.AdamW(self._masters.values(), lr=1.0, weight_decay=0.0)
        self._optimizer.register_step_post_hook(lambda *_: self._round())

    def train_step(self, micro_batches: Sequence[TokenRows], *arguments: Any, **options: Any) -> float:
        for parameter in self.model.trained.parameters():
            parameter.grad = None
        return super().train_step(micro_batches, *arguments, **options)

    def _share_gradients(self) -> None:
        super()._share_gradients()
        for name, parameter in self.model.trained.named_parameters():
            assert parameter.grad is not None
            self._masters[name].grad = parameter.grad.float()

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self.model.trained.named_parameters():
            parameter.copy_(self._masters[name])

    def weights(self, *, master: bool = False) -> Iterator[tuple[str, Tensor]]:
        if not master:
            return super().weights()
        return ((name, weight.detach().clone()) for name, weight in self._masters.items())
