"""Minimum-form credit."""

import math

import pytest
import torch

from oprime.core.process_credit import minimum_form
from oprime.runtime.settings import AlgorithmSection

NAN = math.nan


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, [0.05741, -0.459918, 0.023374]), (0.1, [0.000005, -0.799888, 0.000012])])
def test_credit_of_the_worked_example(temperature: float, expected: list[float]) -> None:
    rewards = torch.tensor([[NAN, 0.3, -0.8, 0.1], [0.2, NAN, NAN, NAN], [NAN] * 4], dtype=torch.float64)
    is_trained = torch.tensor([[False, True, True, True], [True, False, False, False], [False] * 4])
    found = minimum_form(rewards, is_trained, temperature=temperature).tolist()
    assert found[0] == [0, *(pytest.approx(value, abs=1e-6) for value in expected)]
    # A single token keeps its reward; what stands outside says nothing.
    assert found[1:] == [[pytest.approx(0.2), 0, 0, 0], [0] * 4]


def test_cold_credit_is_the_smallest_reward() -> None:
    rewards = torch.tensor([[0.3, -0.8, 0.1, 0.5]], dtype=torch.float64)
    found = minimum_form(rewards, torch.ones(1, 4, dtype=torch.bool), temperature=0.01)
    assert found.tolist() == [pytest.approx([0, -0.8, 0, 0], abs=1e-12)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"credit_temperature": 1.0}, r'credit_temperature \(1\) does nothing with algorithm.process_credit = "sum"'),
        ({"process_credit": "min", "estimator": "prm_value"}, r'"prm_value" takes values, .* set algorithm.process_credit=sum'),
    ],
)
def test_credit_that_does_not_fit_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AlgorithmSection.model_validate(settings)
