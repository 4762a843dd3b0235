"""Values of a critic: V of what precedes each response token."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from oprime.lm.models import backbone, disable_dropout
from oprime.lm.packing import PADDED, at_responses, choose_packing, hidden_before_response
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
    modes. With `packing` nothing is computed on padding, where the model allows it. Raises SettingsError for models without layers apart
    from their vocabulary head.
    """

    def __init__(self, causal_lm: "PreTrainedModel", *, packing: bool = True) -> None:
        super().__init__()
        if causal_lm.base_model is causal_lm:
            raise SettingsError(
                f"{type(causal_lm).__name__} has no backbone apart from its head, so no critic can be made of it: choose another model"
            )
        disable_dropout(causal_lm)
        self.packing = choose_packing(causal_lm) if packing else PADDED
        self.backbone = backbone(causal_lm)
        self.value_head = ValueHead(causal_lm.config.get_text_config().hidden_size).to(causal_lm.device)

    @property
    def trained(self) -> Self:
        """All of it."""
        return self

    @property
    def shares_prompts(self) -> bool:
        """Whether siblings of a micro-batch cost their prompt once."""
        return self.packing.shares_prompts

    def merged(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """As they are: a critic has no adapters."""
        return weights

    def as_in_files(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """As they are: a critic's files are its own."""
        return weights

    def forward(
        self,
        input_ids: Int[Tensor, "rollout token"],
        attention_mask: Bool[Tensor, "rollout token"],
        is_trained: Bool[Tensor, "rollout token"],
    ) -> Float[Tensor, "rollout token"]:
        """V of prompt and response before every response token, float32; 0 elsewhere. Rows are padded on the right."""
        if bool(is_trained[:, 0].any()):
            raise ValueError("is_trained is true at position 0: nothing precedes the first token, so a row needs a prompt token")
        hidden = hidden_before_response(self.backbone, self.packing, input_ids, attention_mask, is_trained)
        return at_responses(self.value_head(hidden), is_trained)
