"""GSPO: one ratio per response, by hand."""

import math

import pytest
import torch
from torch import Tensor

from oprime.core import policy_losses
from oprime.core.policy_loss import PolicyTokens, Surrogate

MASK = torch.tensor([[False, True, True], [True, True, False]])
# Ratios 2 and 1/2 make a response's ratio 1; ratios 1.21 and 1 make it 1.1.
LOG_RATIO = torch.tensor([[0.0, math.log(2), -math.log(2)], [math.log(1.21), 0.0, 0.0]], dtype=torch.float64)


def gspo(advantages: list[list[float]], **own: object) -> tuple[Surrogate, Tensor]:
    """The losses, and the gradient of their sum by log-prob."""
    logprobs = LOG_RATIO.clone().requires_grad_()
    tokens = PolicyTokens(logprobs=logprobs, log_ratio=logprobs, advantages=torch.tensor(advantages, dtype=torch.float64), is_trained=MASK)
    found = policy_losses.named("gspo").with_settings(own).surrogate(tokens)
    found.losses[MASK].sum().backward()
    assert logprobs.grad is not None
    return found, logprobs.grad


def test_all_tokens_of_a_response_have_its_ratio_and_its_clip() -> None:
    found, _ = gspo([[0, 1, 1], [1, -2, 0]], gspo_clip_low=0.05, gspo_clip_high=0.05)
    # 1.1 is above 1.05: clipped where the advantage is positive, left alone where it is negative.
    assert found.losses[MASK].tolist() == pytest.approx([-1, -1, -1.05, 2.2])
    assert found.marked["clipped"][MASK].tolist() == [False, False, True, False]


def test_the_defaults_are_those_of_the_paper() -> None:
    found, _ = gspo([[0, 1, 1], [1, 1, 0]])
    assert found.losses[MASK].tolist() == pytest.approx([-1, -1, -1.0004, -1.0004])


def test_the_gradient_goes_through_every_token_of_the_response() -> None:
    # d/dlog pi_u of -sum_t A_t s is -s mean(A): 1 * 2 in the first response, 1.1 * 0.5 in the second.
    _, gradient = gspo([[0, 1, 3], [2, -1, 0]], gspo_clip_low=0.5, gspo_clip_high=0.5)
    assert gradient.tolist() == [[0, pytest.approx(-2), pytest.approx(-2)], [pytest.approx(-0.55), pytest.approx(-0.55), 0]]


def test_gspo_token_has_the_same_losses_and_leaves_every_token_its_own_advantage() -> None:
    wide = {"gspo_clip_low": 0.5, "gspo_clip_high": 0.5}
    (of_token, gradient), (of_sequence, _) = (gspo([[0, 1, 3], [2, -1, 0]], gspo_gradient=way, **wide) for way in ("token", "sequence"))
    assert torch.equal(of_token.losses, of_sequence.losses)
    assert gradient.tolist() == [[0, pytest.approx(-1), pytest.approx(-3)], [pytest.approx(-2.2), pytest.approx(1.1), 0]]


def test_a_clipped_response_sends_no_gradient() -> None:
    for way in ("sequence", "token"):
        _, gradient = gspo([[0, 0, 0], [1, 1, 0]], gspo_gradient=way)
        assert not gradient.any()
