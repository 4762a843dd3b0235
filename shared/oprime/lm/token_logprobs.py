"""Log-probs of response tokens, and their distributions' entropies, without ever holding tokens x vocabulary or computing on padding.

The backbone gives hidden states (`packing`); the head turns a block of them into logits, keeps one number per token and forgets
the logits (`chunked_logprobs`). One module call covers all blocks, so that ZeRO-3 gathers the head's weight once per pass, however
many tokens a rank happens to have.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import structlog
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from oprime.core.prompt_families import PromptFamily, lay_out
from oprime.lm.chunked_logprobs import ChunkedLogprobs, LogitTransform, fits_at_once, logprobs_at_once
from oprime.lm.file_names import left_in_files, whole_as_in_files
from oprime.lm.lora import merged
from oprime.lm.models import backbone, disable_dropout
from oprime.lm.packing import PADDED, at_responses, choose_packing, hidden_before_response, hidden_before_shared, trial_attention
from oprime.runtime.errors import SettingsError
from oprime.runtime.training_settings import VOCABULARY_CHUNK

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = structlog.get_logger()


class TokenLogprobHead(nn.Module):
    """A language model's head that returns the log-prob of one given token per position, and the entropy there if asked.

    It shares the weight of the model's own head. `chunk_tokens` rows of logits exist at once, a piece of the vocabulary wide.
    """

    def __init__(self, head: nn.Linear, transform: LogitTransform, chunk_tokens: int) -> None:
        super().__init__()
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {chunk_tokens}: at least one token is needed at a time")
        self.weight = head.weight
        self.bias = head.bias
        self.transform = transform
        self.chunk_tokens = chunk_tokens

    @overload
    def forward(self, hidden: Tensor, token_ids: Tensor, entropies: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, hidden: Tensor, token_ids: Tensor, entropies: Literal[True]) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, hidden: Tensor, token_ids: Tensor, entropies: bool) -> Tensor | tuple[Tensor, Tensor]: ...
    def forward(
        self, hidden: Float[Tensor, "token hidden"], token_ids: Int[Tensor, " token"], entropies: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        sizes = {"chunk_tokens": self.chunk_tokens, "chunk_vocabulary": VOCABULARY_CHUNK}
        if torch.is_inference_mode_enabled() and not entropies and fits_at_once(len(token_ids), len(self.weight), **sizes):
            return logprobs_at_once(hidden, self.weight, self.bias, token_ids, self.transform)
        found: Any = ChunkedLogprobs.apply(
            hidden, self.weight, self.bias, token_ids, self.chunk_tokens, VOCABULARY_CHUNK, self.transform, entropies
        )
        return found if entropies else found[0]


class TokenLogprobModel(nn.Module):
    """A causal language model that returns token log-probs instead of logits.

    Dropout is off in both modes: the training pass computes what the scoring pass computes. With `packing` nothing is computed
    on padding, unless the model cannot keep rollouts of one row apart. Log-probs are those of softmax(logits / temperature).
    Raises SettingsError for models whose logits are not a linear map of the last hidden state, scaled or capped.
    """

    def __init__(self, causal_lm: "PreTrainedModel", chunk_tokens: int, *, packing: bool = True, temperature: float = 1.0) -> None:
        super().__init__()
        disable_dropout(causal_lm)
        self.causal_lm = causal_lm
        transform = _logit_transform(causal_lm)
        self.head = TokenLogprobHead(_linear_head(causal_lm), transform, chunk_tokens)
        _require_plain_head(causal_lm, self.head)
        self.head.transform = transform.at_temperature(temperature)
        self.packing = choose_packing(causal_lm) if packing else PADDED
        if packing and self.packing.refusal:
            log.warning("rows_stay_padded", reason=self.packing.refusal)

    @property
    def trained(self) -> "PreTrainedModel":
        """The causal language model, whose weights have their Hugging Face names."""
        return self.causal_lm

    @property
    def shares_prompts(self) -> bool:
        """Whether siblings of a micro-batch cost their prompt once."""
        return self.packing.shares_prompts

    def merged(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights of `trained`, by their names in it and in its order, with adapters added to what they adapt."""
        return merged(self.causal_lm, weights)

    def as_in_files(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights of `trained` without adapters, by their names in it, as its files have them; what it left in the files comes last."""
        yield from whole_as_in_files(self.causal_lm, weights)
        yield from left_in_files(self.causal_lm)

    @overload
    def forward(self, input_ids: Tensor, attention_mask: Tensor, is_trained: Tensor, entropies: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, input_ids: Tensor, attention_mask: Tensor, is_trained: Tensor, entropies: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def forward(
        self,
        input_ids: Int[Tensor, "rollout token"],
        attention_mask: Bool[Tensor, "rollout token"],
        is_trained: Bool[Tensor, "rollout token"],
        entropies: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-prob of every response token given those before it, [rollout token] float32; 0 elsewhere. Rows are padded on the right.

        With `entropies` also the entropy, in nats, of the distribution that each response token is drawn from.
        """
        if bool(is_trained[:, 0].any()):
            raise ValueError("is_trained is true at position 0: nothing predicts the first token, so a row needs a prompt token")
        hidden = hidden_before_response(self.causal_lm, self.packing, input_ids, attention_mask, is_trained)
        found = self.head(hidden, input_ids[is_trained], entropies)
        if isinstance(found, Tensor):
            return at_responses(found, is_trained)
        return at_responses(found[0], is_trained), at_responses(found[1], is_trained)

    def of_families(self, families: Sequence[PromptFamily]) -> Float[Tensor, " response_token"]:
        """Log-probs of the response tokens of families, in their order, each prompt computed once; needs `packing.shares_prompts`."""
        device = self.head.weight.device
        token_ids = np.concatenate([ids for family in families for ids in family.responses])
        hidden = hidden_before_shared(self.causal_lm, lay_out(families), device, pads=not torch.is_grad_enabled())
        return self.head(hidden, torch.as_tensor(token_ids, dtype=torch.int64).to(device))


def _linear_head(causal_lm: "PreTrainedModel") -> nn.Linear:
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) or causal_lm.base_model is causal_lm:
        raise SettingsError(
            f"{type(causal_lm).__name__} has no backbone with a linear lm_head (its head is {type(head).__name__}): "
            "log-probs cannot be computed in chunks; choose another model"
        )
    return head


def _logit_transform(causal_lm: "PreTrainedModel") -> LogitTransform:
    """Read scale and soft cap where the models of transformers keep them."""
    config = causal_lm.config.get_text_config()
    scale = 1.0
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        scale *= float(config.logit_scale)
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        scale /= float(config.logits_scaling)
    if getattr(config, "lm_head_multiplier", None) is not None:  # Falcon-H1
        scale *= float(config.lm_head_multiplier)
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 and later
    return LogitTransform(scale=scale, cap=None if cap is None else float(cap))


@torch.no_grad()
def _require_plain_head(causal_lm: "PreTrainedModel", head: TokenLogprobHead) -> None:
    """Compare with the model's own logits, on hidden states stretched so that a soft cap cannot hide."""
    kept: list[Tensor] = []

    def stretch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        largest = F.linear(inputs[0], head.weight, head.bias).float().abs().max().clamp(min=1e-6)
        kept.extend((inputs[0], (inputs[0] * (50.0 / largest)).to(inputs[0].dtype)))
        return (kept[1], *inputs[1:])

    token_ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
    hook = _linear_head(causal_lm).register_forward_pre_hook(stretch)
    try:
        with trial_attention(causal_lm):
            logits = causal_lm(input_ids=token_ids, use_cache=False).logits.float()[0]
            hidden = backbone(causal_lm)(input_ids=token_ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    theirs = logits.log_softmax(-1).gather(-1, token_ids.T).squeeze(-1)
    ours = head(kept[1][0], token_ids[0])
    exact = head.weight.dtype == torch.float32
    if not torch.allclose(kept[0], hidden, rtol=0.01, atol=1e-4 if exact else 0.1):
        raise SettingsError(
            f"{type(causal_lm).__name__} changes its hidden states between its layers and lm_head in a way that is not known here: "
            "choose another model"
        )
    if not torch.allclose(ours, theirs, rtol=0.01, atol=0.05 if exact else 1.0):
        raise SettingsError(
            f"{type(causal_lm).__name__} changes its logits after lm_head in a way that is not known here (scale {head.transform.scale}, "
            f"cap {head.transform.cap} do not reproduce them): choose another model"
        )
