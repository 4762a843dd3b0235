"""Blocks of tokens and vocabulary give the log-probs, entropies and gradients of the whole, in float64 to the last digits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oprime.lm.chunked_logprobs import ChunkedLogprobs, LogitTransform, logprobs_at_once

TRANSFORMS = {"plain": LogitTransform(), "scaled": LogitTransform(scale=0.3), "capped": LogitTransform(scale=2.0, cap=1.5)}


def head(seed: int, tokens: int, vocabulary: int, size: int = 3, *, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight and bias with gradient, in float64, and a token per hidden state."""
    dice = torch.Generator().manual_seed(seed)
    shapes = ((tokens, size), (vocabulary, size), (vocabulary,))
    hidden, weight, bias = ((spread * torch.randn(shape, dtype=torch.float64, generator=dice)).requires_grad_() for shape in shapes)
    return hidden, weight, bias, torch.randint(vocabulary, (tokens,), generator=dice)


def in_blocks(
    parts: tuple[Tensor, Tensor, Tensor, Tensor], chunks: tuple[int, int], transform: LogitTransform = TRANSFORMS["plain"]
) -> tuple[Tensor, Tensor]:
    return ChunkedLogprobs.apply(*parts, *chunks, transform, True)  # pyright: ignore[reportReturnType]


def slow_value(logits: list[float], chosen: int) -> tuple[float, float]:
    """Log-prob of one token and the entropy, from one row of logits, by hand."""
    largest = max(logits)
    normaliser = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
    log_probs = [logit - normaliser for logit in logits]
    return log_probs[chosen], -math.fsum(math.exp(log_prob) * log_prob for log_prob in log_probs)


@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 6),
    vocabulary=st.integers(1, 12),
    chunks=st.tuples(st.integers(1, 7), st.integers(1, 13)),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
    transform=st.sampled_from(sorted(TRANSFORMS)),
)
@settings(max_examples=150)
def test_blocks_of_any_size_agree_with_a_slow_sum(
    seed: int, tokens: int, vocabulary: int, chunks: tuple[int, int], spread: float, transform: str
) -> None:
    parts = head(seed, tokens, vocabulary, spread=spread)
    hidden, weight, bias, token_ids = (part.detach() for part in parts)
    form = TRANSFORMS[transform]
    logprobs, entropies = (found.detach() for found in in_blocks(parts, chunks, form))
    at_once = logprobs_at_once(hidden, weight, bias, token_ids, form)
    for row in range(tokens):
        logits = [float(hidden[row] @ weight[token] + bias[token]) * form.scale for token in range(vocabulary)]
        if form.cap is not None:
            logits = [form.cap * math.tanh(logit / form.cap) for logit in logits]
        logprob, entropy = slow_value(logits, int(token_ids[row]))
        assert float(logprobs[row]) == pytest.approx(logprob, rel=1e-9, abs=1e-9)
        assert float(at_once[row]) == pytest.approx(logprob, rel=1e-9, abs=1e-9)
        assert float(entropies[row]) == pytest.approx(entropy, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("chunks", [(2, 3), (100, 100)])
def test_gradients_are_finite_differences(transform: str, chunks: tuple[int, int]) -> None:
    hidden, weight, bias, token_ids = head(1, 4, 7)

    def both(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        logprobs, entropies = in_blocks((hidden, weight, bias, token_ids), chunks, TRANSFORMS[transform])
        return torch.stack([logprobs, entropies])

    torch.autograd.gradcheck(both, (hidden, weight, bias), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("used", ["logprobs", "entropies"])
def test_each_gradient_comes_alone_too(used: str) -> None:
    parts = head(2, 4, 7)
    logits = parts[0] @ parts[1].T + parts[2]
    log_probs = logits.log_softmax(-1)
    expected = log_probs.gather(-1, parts[3][:, None]) if used == "logprobs" else -(log_probs.exp() * log_probs).sum(-1)
    wanted = torch.autograd.grad(expected.sum(), parts[:3])
    found = in_blocks(parts, (3, 4))[used == "entropies"]
    for one, other in zip(torch.autograd.grad(found.sum(), parts[:3]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_certain_token_has_no_entropy_and_equal_logits_have_log_of_the_vocabulary() -> None:
    weight = torch.tensor([[400.0], [0.0], [0.0], [0.0]])
    hidden = torch.tensor([[1.0], [0.0]])
    _, entropies = in_blocks((hidden, weight, torch.zeros(4), torch.tensor([0, 0])), (1, 3))
    assert entropies.tolist() == pytest.approx([0.0, math.log(4)])
