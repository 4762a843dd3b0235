"""log_softmax(logits)[token] and the entropy of softmax(logits), with exact gradients, never holding tokens x vocabulary.

A block of `chunk_tokens` x `chunk_vocabulary` logits exists at a time, whatever the vocabulary: the forward pass keeps a running maximum
and sum per token (online log-sum-exp), and the backward pass computes each block again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_BELOW_EVERY_LOGIT = -1e30


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: cap * tanh(scale * logits / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def at_temperature(self, temperature: float) -> "LogitTransform":
        """The same, then divided by `temperature`. Raises ValueError unless that is above 0."""
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: log-probs need one above 0")
        return LogitTransform(scale=self.scale / temperature, cap=None if self.cap is None else self.cap / temperature)

    def apply_(self, logits: Float[Tensor, "token vocabulary"]) -> Float[Tensor, "token vocabulary"]:
        """In place: the caller has no other use of the raw logits."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, transformed: Float[Tensor, "token vocabulary"]) -> Float[Tensor, "token vocabulary"] | float:
        """Derivative of the transformed logits by the raw ones."""
        return self.scale if self.cap is None else (1 - (transformed / self.cap) ** 2) * self.scale


def fits_at_once(tokens: int, vocabulary: int, *, chunk_tokens: int, chunk_vocabulary: int) -> bool:
    """Whether two matrices of all logits are no more than the block that may exist."""
    return 2 * tokens * vocabulary <= chunk_tokens * chunk_vocabulary


def logprobs_at_once(
    hidden: Float[Tensor, "token hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    bias: Float[Tensor, " vocabulary"] | None,
    token_ids: Int[Tensor, " token"],
    transform: LogitTransform,
) -> Float[Tensor, " token"]:
    """Log-probs of the given tokens from all of the logits, at least float32: for a few tokens steps cost more than what they compute."""
    logits = transform.apply_(F.linear(hidden, weight, bias).to(_wide(hidden)))
    return -F.cross_entropy(logits, token_ids, reduction="none")


class ChunkedLogprobs(torch.autograd.Function):
    """Log-probs of the given tokens and, if asked for, the entropy per position (else an empty tensor); at least float32.

    With logits z and p = softmax(z): d log p_y / dz = onehot(y) - p, and dH / dz = -p (log p + H). The gradient of the
    entropies costs nothing where the loss does not use them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        chunk_tokens: int,
        chunk_vocabulary: int,
        transform: LogitTransform,
        entropies: bool,
    ) -> tuple[Tensor, Tensor]:
        # Kept by reference, not as saved tensors: ZeRO-3 swaps the storage of a parameter between the passes.
        ctx.weight, ctx.bias = weight, bias
        ctx.chunk_tokens, ctx.chunk_vocabulary, ctx.transform = chunk_tokens, chunk_vocabulary, transform
        ctx.set_materialize_grads(False)
        sums = _RunningSums(token_ids, dtype=_wide(hidden), entropies=entropies)
        for tokens, vocabulary in _blocks(ctx, len(token_ids)):
            sums.add(_logits(ctx, hidden, tokens, vocabulary), tokens, vocabulary)
        entropy = sums.entropies()
        ctx.save_for_backward(hidden, token_ids, sums.log_normalisers(), entropy)
        if not entropies:
            ctx.mark_non_differentiable(entropy)
        return sums.logprobs(), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, token_ids, log_normalisers, entropies = ctx.saved_tensors
        of_logprobs = torch.zeros_like(log_normalisers) if gradients[0] is None else gradients[0]
        of_entropies = gradients[1] if len(entropies) else None
        sums = _Gradients(ctx, hidden)
        for tokens, vocabulary in _blocks(ctx, len(token_ids)):
            logits = _logits(ctx, hidden, tokens, vocabulary)
            slope = ctx.transform.slope(logits)
            log_probs = logits.sub_(log_normalisers[tokens, None])
            of_logprob = of_logprobs[tokens, None]
            if of_entropies is None:
                of_logits = log_probs.exp_().mul_(-of_logprob)
            else:
                probs = log_probs.exp()
                of_logits = log_probs.add_(entropies[tokens, None]).mul_(of_entropies[tokens, None]).add_(of_logprob).mul_(probs).neg_()
            columns, inside = _columns(token_ids[tokens], vocabulary)
            of_logits.scatter_add_(-1, columns, of_logprob * inside)
            if isinstance(slope, Tensor) or slope != 1.0:
                of_logits *= slope
            sums.add(of_logits, tokens, vocabulary)
        return sums.hidden.to(hidden.dtype), sums.weight, sums.bias, None, None, None, None, None


class _RunningSums:
    """Per token, over the vocabulary so far: the largest logit m, sum of exp(z - m), sum of exp(z - m) (z - m), the chosen logit."""

    def __init__(self, token_ids: Tensor, *, dtype: torch.dtype, entropies: bool) -> None:
        self._token_ids = token_ids
        self._chosen = torch.zeros(token_ids.shape, dtype=dtype, device=token_ids.device)
        self._largest = torch.full_like(self._chosen, _BELOW_EVERY_LOGIT)
        self._total = torch.zeros_like(self._chosen)
        self._weighted = torch.zeros_like(self._chosen) if entropies else None

    def add(self, logits: Tensor, tokens: slice, vocabulary: slice) -> None:
        """Uses `logits` up."""
        columns, inside = _columns(self._token_ids[tokens], vocabulary)
        self._chosen[tokens] += (logits.gather(-1, columns) * inside).squeeze(-1)
        largest = torch.maximum(self._largest[tokens], logits.amax(-1))
        shift = self._largest[tokens] - largest
        shifted = logits.sub_(largest[:, None])
        if self._weighted is None:
            powers = shifted.exp_()
            self._total[tokens] = self._total[tokens] * shift.exp() + powers.sum(-1)
        else:
            powers = shifted.exp()
            self._weighted[tokens] = (self._weighted[tokens] + shift * self._total[tokens]) * shift.exp() + (shifted * powers).sum(-1)
            self._total[tokens] = self._total[tokens] * shift.exp() + powers.sum(-1)
        self._largest[tokens] = largest

    def log_normalisers(self) -> Tensor:
        return self._largest + self._total.log()

    def logprobs(self) -> Tensor:
        return (self._chosen - self._largest) - self._total.log()

    def entropies(self) -> Tensor:
        """H = log sum exp(z) - sum p z; empty if not asked for."""
        if self._weighted is None:
            return self._total.new_empty(0)
        return (self._total.log() - self._weighted / self._total).clamp(min=0)


class _Gradients:
    """Sums over blocks, at least in float32 whatever type the weight has."""

    def __init__(self, ctx: Any, hidden: Tensor) -> None:
        self._ctx, self._hidden = ctx, hidden
        wide = _wide(hidden)
        self.hidden = torch.zeros_like(hidden, dtype=wide)
        self._weight = torch.zeros_like(ctx.weight, dtype=wide) if ctx.needs_input_grad[1] else None
        self._bias = torch.zeros_like(ctx.bias, dtype=wide) if ctx.needs_input_grad[2] else None

    def add(self, of_logits: Tensor, tokens: slice, vocabulary: slice) -> None:
        narrow = of_logits.to(self._hidden.dtype)
        _add_product(self.hidden[tokens], narrow, self._ctx.weight[vocabulary])
        if self._weight is not None:
            _add_product(self._weight[vocabulary], narrow.T, self._hidden[tokens])
        if self._bias is not None:
            self._bias[vocabulary] += of_logits.sum(0)

    @property
    def weight(self) -> Tensor | None:
        return None if self._weight is None else self._weight.to(self._ctx.weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        return None if self._bias is None else self._bias.to(self._ctx.bias.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a copy of the product where the types allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _logits(ctx: Any, hidden: Tensor, tokens: slice, vocabulary: slice) -> Tensor:
    bias = None if ctx.bias is None else ctx.bias[vocabulary]
    return ctx.transform.apply_(F.linear(hidden[tokens], ctx.weight[vocabulary], bias).to(_wide(hidden)))


def _columns(token_ids: Tensor, vocabulary: slice) -> tuple[Tensor, Tensor]:
    """Each token's column in a block of logits, and whether it has one there; [token 1] each."""
    offsets = (token_ids - vocabulary.start)[:, None]
    width = vocabulary.stop - vocabulary.start
    return offsets.clamp(0, width - 1), (offsets >= 0) & (offsets < width)


def _blocks(ctx: Any, tokens: int) -> Iterator[tuple[slice, slice]]:
    """One piece of the vocabulary after the other, so that its weights stay near while all tokens pass.

    The fewer the tokens, the wider the pieces: as many logits exist at once as `chunk_tokens` tokens have in a piece.
    """
    width = max(ctx.chunk_vocabulary, ctx.chunk_tokens * ctx.chunk_vocabulary // max(tokens, 1))
    for vocabulary in _pieces(len(ctx.weight), width):
        for part in _pieces(tokens, ctx.chunk_tokens):
            yield part, vocabulary


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _wide(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)
