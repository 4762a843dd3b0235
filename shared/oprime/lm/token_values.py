"""Values of a critic: V of what precedes each response token."""

from typing import TYPE_CHECKING, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from oprime.lm.models import disable_dropout
from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ValueHead(nn.Linear):
    """One number per hidden state, summed in float32 whatever type the model computes in; 0 at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "token hidden"]) -> Float[Tensor, " token"]:
        return F.linear(input.float(), self.weight.float(), self.bias.float()).squeeze(-1)


class TokenValueModel(nn.Module):
    """A critic: the layers of a causal language model below a value head, with no vocabulary.

    Its weights are named `backbone.` and `value_head.`, the former continuing with their Hugging Face names. Dropout is off in both
    modes. Raises SettingsError for models without layers apart from their vocabulary head.
    """

    def __init__(self, causal_lm: "PreTrainedModel") -> None:
        super().__init__()
        if causal_lm.base_model is causal_lm:
            raise SettingsError(
                f"{type(causal_lm).__name__} has no backbone apart from its head, so no critic can be made of it: choose another model"
            )
        disable_dropout(causal_lm)
        self.backbone = causal_lm.base_model
        self.value_head = ValueHead(causal_lm.config.hidden_size).to(causal_lm.device)

    @property
    def trained(self) -> Self:
        """All of it."""
        return self

    def forward(
        self,
        input_ids: Int[Tensor, "rollout token"],
        attention_mask: Bool[Tensor, "rollout token"],
        is_response: Bool[Tensor, "rollout token"],
    ) -> Float[Tensor, "rollout token"]:
        """V of prompt and response before every response token, float32; 0 elsewhere. Rows are padded on the right."""
        if bool(is_response[:, 0].any()):
            raise ValueError("is_response is true at position 0: nothing precedes the first token, so a row needs a prompt token")
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        rollouts, tokens = is_response.nonzero(as_tuple=True)
        zeros = torch.zeros(is_response.shape, dtype=torch.float32, device=hidden.device)
        return zeros.index_put((rollouts, tokens), self.value_head(hidden[rollouts, tokens - 1]))
