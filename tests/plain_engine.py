"""TrainEngines in plain torch: what the DeepSpeed engine must agree with, without its start-up time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from oprime.core.token_rows import TokenRows
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel

Result = TypeVar("Result")
Model = TokenLogprobModel | TokenValueModel


class PlainEngine:
    """AdamW on the sum of the micro-batches' losses."""

    def __init__(self, model: Model, *, gradient_clip: float = 1.0, weight_decay: float = 0.0, adam_eps: float = 1e-8) -> None:
        self.model = model
        self._clip = gradient_clip
        self._optimizer = torch.optim.AdamW(model.trained.parameters(), lr=1.0, weight_decay=weight_decay, eps=adam_eps)

    @property
    def rank(self) -> int:
        return 0

    @property
    def world_size(self) -> int:
        return 1

    @property
    def shares_prompts(self) -> bool:
        return False

    @torch.no_grad()
    def logprobs(self, rows: TokenRows) -> Tensor:
        if len(rows.input_ids) == 0:
            return torch.zeros(rows.is_trained.shape)
        return self.model(rows.input_ids, rows.attention_mask, rows.is_trained)

    def values(self, rows: TokenRows) -> Tensor:
        return self.logprobs(rows)

    def train_step(
        self, micro_batches: Sequence[TokenRows], loss: Callable[..., Tensor], *, learning_rate: float, entropies: bool = False
    ) -> float:
        self._optimizer.zero_grad()
        for index, rows in enumerate(micro_batches):
            if len(rows.input_ids):
                found = self.model(rows.input_ids, rows.attention_mask, rows.is_trained, **({"entropies": True} if entropies else {}))
                loss(index, *(found if isinstance(found, tuple) else (found,))).backward()
        self._share_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.model.trained.parameters(), self._clip)
        self._optimizer.step()
        return float(norm)

    def _share_gradients(self) -> None:
        """One rank has them all."""

    def weights(self, *, master: bool = False) -> Iterator[tuple[str, Tensor]]:
        return self.model.merged((name, parameter.detach().clone()) for name, parameter in self.model.trained.named_parameters())

    def trained_weights(self) -> Iterator[tuple[str, Tensor]]:
        named = self.model.trained.named_parameters()
        return ((name, parameter.detach().clone()) for name, parameter in named if parameter.requires_grad)

    def published_weights(self, *, master: bool = False) -> Iterator[tuple[str, Tensor]]:
        return self.weights(master=master)

    def save(self, directory: Path) -> None:
        torch.save({"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}, directory / "plain.pt")

    def load(self, directory: Path) -> None:
        state = torch.load(directory / "plain.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def all_sum(self, values: Tensor) -> Tensor:
        return values

    def gather(self, payload: bytes) -> list[bytes] | None:
        return [payload]


class Exchange:
    """Lets threads that play ranks see each other's values."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=60)
        self._values: list[Any] = [None] * ranks

    def all(self, rank: int, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        self._values[rank] = value
        self.barrier.wait()
        values = list(self._values)
        self.barrier.wait()
        return values


class RankedEngine(PlainEngine):
    """One of several ranks; each is a thread with a model of its own."""

    def __init__(self, model: Model, exchange: Exchange, rank: int, **options: float) -> None:
        super().__init__(model, **options)
        self._exchange, self._rank = exchange, rank

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._exchange.barrier.parties

    def _share_gradients(self) -> None:
        own = [parameter.grad for parameter in self.model.trained.parameters()]
        zeros = [torch.zeros_like(parameter) for parameter in self.model.trained.parameters()]
        every = self._exchange.all(self._rank, [zero if grad is None else grad.clone() for grad, zero in zip(own, zeros, strict=True)])
        for parameter, gradients in zip(self.model.trained.parameters(), zip(*every, strict=True), strict=True):
            parameter.grad = torch.stack(gradients).sum(0)

    def all_sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._exchange.all(self._rank, values.clone())).sum(0)

    def gather(self, payload: bytes) -> list[bytes] | None:
        payloads = self._exchange.all(self._rank, payload)
        return payloads if self._rank == 0 else None


def ranked_engines(models: Sequence[Model], **options: float) -> list[RankedEngine]:
    """One rank per model; make the models beforehand, as their seed is the process's."""
    exchange = Exchange(len(models))
    return [RankedEngine(model, exchange, rank, **options) for rank, model in enumerate(models)]


def on_ranks(workers: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run every rank's work at once; results in rank order. A rank that fails leaves the others waiting for a minute at most."""
    with ThreadPoolExecutor(len(workers)) as pool:
        return [future.result() for future in [pool.submit(worker) for worker in workers]]
