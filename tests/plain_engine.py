"""A TrainEngine of one rank in plain torch: what the DeepSpeed engine must agree with, without its start-up time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from oprime.core.token_rows import TokenRows
from oprime.lm.token_logprobs import TokenLogprobModel


class PlainEngine:
    """AdamW on the sum of the micro-batches' losses."""

    def __init__(self, model: TokenLogprobModel, *, gradient_clip: float = 1.0, weight_decay: float = 0.0) -> None:
        self.model = model
        self._clip = gradient_clip
        self._optimizer = torch.optim.AdamW(model.causal_lm.parameters(), lr=1.0, weight_decay=weight_decay)

    @property
    def rank(self) -> int:
        return 0

    @property
    def world_size(self) -> int:
        return 1

    @torch.no_grad()
    def logprobs(self, rows: TokenRows) -> Tensor:
        if len(rows.input_ids) == 0:
            return torch.zeros(rows.is_response.shape)
        return self.model(rows.input_ids, rows.attention_mask, rows.is_response)

    def train_step(self, micro_batches: Sequence[TokenRows], loss: Callable[[int, Tensor], Tensor], *, learning_rate: float) -> float:
        self._optimizer.zero_grad()
        for index, rows in enumerate(micro_batches):
            if len(rows.input_ids):
                loss(index, self.model(rows.input_ids, rows.attention_mask, rows.is_response)).backward()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.model.causal_lm.parameters(), self._clip)
        self._optimizer.step()
        return float(norm)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, parameter.detach().clone()) for name, parameter in self.model.causal_lm.named_parameters())

    def save(self, directory: Path) -> None:
        torch.save({"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}, directory / "plain.pt")

    def load(self, directory: Path) -> None:
        state = torch.load(directory / "plain.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def broadcast(self, payload: bytes | None) -> bytes:
        assert payload is not None
        return payload

    def all_sum(self, values: Tensor) -> Tensor:
        return values

    def all_max(self, values: Tensor) -> Tensor:
        return values

    def gather(self, payload: bytes) -> list[bytes] | None:
        return [payload]
