"""Log-probs of response tokens without ever holding tokens x vocabulary.

The backbone gives hidden states; the head turns a chunk of them into logits, keeps one number per token and forgets the
logits. The backward pass computes each chunk's logits again. One module call covers all chunks, so that ZeRO-3 gathers the
head's weight once per pass, however many tokens a rank happens to have.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from oprime.lm.models import disable_dropout
from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: cap * tanh(scale * logits / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def apply(self, logits: Float[Tensor, "token vocabulary"]) -> Float[Tensor, "token vocabulary"]:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def backward(
        self, gradient: Float[Tensor, "token vocabulary"], transformed: Float[Tensor, "token vocabulary"]
    ) -> Float[Tensor, "token vocabulary"]:
        if self.cap is not None:
            gradient = gradient * (1 - (transformed / self.cap) ** 2)
        return gradient * self.scale if self.scale != 1.0 else gradient


class TokenLogprobHead(nn.Module):
    """A language model's head that returns the log-prob of one given token per position.

    It shares the weight of the model's own head. `chunk_tokens` rows of logits exist at once, in float32.
    """

    def __init__(self, head: nn.Linear, transform: LogitTransform, chunk_tokens: int) -> None:
        super().__init__()
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {chunk_tokens}: at least one token is needed at a time")
        self.weight = head.weight
        self.bias = head.bias
        self.transform = transform
        self.chunk_tokens = chunk_tokens

    def forward(self, hidden: Float[Tensor, "token hidden"], token_ids: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
        return _ChunkedLogprobs.apply(hidden, self.weight, self.bias, token_ids, self.chunk_tokens, self.transform)  # type: ignore[no-any-return]


class TokenLogprobModel(nn.Module):
    """A causal language model that returns token log-probs instead of logits.

    Dropout is off in both modes: the training pass computes what the scoring pass computes. Raises SettingsError for models
    whose logits are not a linear map of the last hidden state, scaled or capped.
    """

    def __init__(self, causal_lm: "PreTrainedModel", chunk_tokens: int) -> None:
        super().__init__()
        disable_dropout(causal_lm)
        self.causal_lm = causal_lm
        transform = _logit_transform(causal_lm)
        self.head = TokenLogprobHead(_linear_head(causal_lm), transform, chunk_tokens)
        _require_plain_head(causal_lm, self.head)

    @property
    def trained(self) -> "PreTrainedModel":
        """The causal language model, whose weights have their Hugging Face names."""
        return self.causal_lm

    def forward(
        self,
        input_ids: Int[Tensor, "rollout token"],
        attention_mask: Bool[Tensor, "rollout token"],
        is_response: Bool[Tensor, "rollout token"],
    ) -> Float[Tensor, "rollout token"]:
        """Log-prob of every response token given those before it, float32; 0 elsewhere. Rows are padded on the right."""
        if bool(is_response[:, 0].any()):
            raise ValueError("is_response is true at position 0: nothing predicts the first token, so a row needs a prompt token")
        hidden = self.causal_lm.base_model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        rollouts, tokens = is_response.nonzero(as_tuple=True)
        logprobs = self.head(hidden[rollouts, tokens - 1], input_ids[rollouts, tokens])
        zeros = torch.zeros(is_response.shape, dtype=torch.float32, device=hidden.device)
        return zeros.index_put((rollouts, tokens), logprobs)


class _ChunkedLogprobs(torch.autograd.Function):
    """log_softmax(transform(hidden @ weight.T + bias))[token_ids], and its gradient, a chunk of tokens at a time.

    The gradient of logits z with respect to the log-prob of token y is onehot(y) - softmax(z).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, chunk_tokens: int, transform: LogitTransform
    ) -> Tensor:
        logprobs = torch.empty(token_ids.shape, dtype=torch.float32, device=hidden.device)
        log_normalisers = torch.empty_like(logprobs)
        for start in range(0, len(token_ids), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits = transform.apply(F.linear(hidden[chunk], weight, bias).float())
            log_normalisers[chunk] = logits.logsumexp(-1)
            logprobs[chunk] = logits.gather(-1, token_ids[chunk, None]).squeeze(-1) - log_normalisers[chunk]
        ctx.save_for_backward(hidden, token_ids, log_normalisers)
        # Kept by reference, not as saved tensors: ZeRO-3 swaps the storage of a parameter between the passes.
        ctx.weight, ctx.bias = weight, bias
        ctx.chunk_tokens, ctx.transform = chunk_tokens, transform
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, token_ids, log_normalisers = ctx.saved_tensors
        gradient_of_hidden = torch.empty_like(hidden)
        sums = _HeadGradients(ctx)
        for start in range(0, len(token_ids), ctx.chunk_tokens):
            chunk = slice(start, start + ctx.chunk_tokens)
            logits = ctx.transform.apply(F.linear(hidden[chunk], ctx.weight, ctx.bias).float())
            of_logits = (logits - log_normalisers[chunk, None]).exp().neg_()
            of_logits.scatter_add_(-1, token_ids[chunk, None], torch.ones_like(of_logits[:, :1]))
            of_logits *= gradients[0][chunk, None]
            of_logits = ctx.transform.backward(of_logits, logits).to(hidden.dtype)
            gradient_of_hidden[chunk] = of_logits @ ctx.weight
            sums.add(of_logits, hidden[chunk])
        return gradient_of_hidden, sums.weight, sums.bias, None, None, None


class _HeadGradients:
    """Sums over chunks in float32, whatever type the weight has."""

    def __init__(self, ctx: Any) -> None:
        self._dtype = ctx.weight.dtype
        self._weight = torch.zeros_like(ctx.weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        self._bias = torch.zeros_like(ctx.bias, dtype=torch.float32) if ctx.needs_input_grad[2] else None

    def add(self, of_logits: Tensor, hidden: Tensor) -> None:
        if self._weight is not None:
            self._weight += of_logits.T @ hidden
        if self._bias is not None:
            self._bias += of_logits.sum(0, dtype=torch.float32)

    @property
    def weight(self) -> Tensor | None:
        return None if self._weight is None else self._weight.to(self._dtype)

    @property
    def bias(self) -> Tensor | None:
        return None if self._bias is None else self._bias.to(self._dtype)


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
    config = causal_lm.config
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

    def stretch(_module: nn.Module, _inputs: object, output: Any) -> Any:
        hidden = output.last_hidden_state
        largest = F.linear(hidden, head.weight, head.bias).float().abs().max().clamp(min=1e-6)
        output.last_hidden_state = (hidden * (50.0 / largest)).to(hidden.dtype)
        kept.append(output.last_hidden_state)
        return output

    token_ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
    hook = causal_lm.base_model.register_forward_hook(stretch)
    was_training = causal_lm.training
    try:
        logits = causal_lm.eval()(input_ids=token_ids, use_cache=False).logits.float()[0]
    finally:
        hook.remove()
        causal_lm.train(was_training)
    theirs = logits.log_softmax(-1).gather(-1, token_ids.T).squeeze(-1)
    ours = head(kept[0][0], token_ids[0])
    tolerance = 0.05 if head.weight.dtype == torch.float32 else 1.0
    if not torch.allclose(ours, theirs, rtol=0.01, atol=tolerance):
        raise SettingsError(
            f"{type(causal_lm).__name__} changes its logits after lm_head in a way that is not known here (scale {head.transform.scale}, "
            f"cap {head.transform.cap} do not reproduce them): choose another model"
        )
