"""A model that only scores: the PRM's reference, or the copy of the PRM that answers requests."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from oprime.core.token_rows import TokenRows
from oprime.lm.token_logprobs import TokenLogprobModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FrozenModel:
    """Token log-probs, after temperature, under weights that no optimizer touches."""

    def __init__(self, causal_lm: "PreTrainedModel", *, chunk_tokens: int, packing: bool = True, temperature: float = 1.0) -> None:
        self._causal_lm = causal_lm.requires_grad_(False)
        self._model = TokenLogprobModel(causal_lm, chunk_tokens, packing=packing, temperature=temperature).eval()
        self._device = causal_lm.device

    @torch.no_grad()
    def logprobs(self, rows: TokenRows) -> Float[Tensor, "rollout token"]:
        """Log-prob of every response token given those before it, float32 on the CPU; 0 outside the response."""
        if len(rows.input_ids) == 0:
            return torch.zeros(rows.is_trained.shape)
        inputs = (rows.input_ids, rows.attention_mask, rows.is_trained)
        return self._model(*(tensor.to(self._device) for tensor in inputs)).cpu()

    @torch.no_grad()
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Copy tensors, by their Hugging Face names, into this model. Raises KeyError for a name it does not have."""
        own = {**dict(self._causal_lm.named_parameters()), **dict(self._causal_lm.named_buffers())}
        for name, tensor in weights:
            own[name].copy_(tensor)
