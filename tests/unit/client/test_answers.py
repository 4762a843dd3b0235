"""What a gateway answers, as records."""

import numpy as np

from oprime.client.answers import StepRewards, TokenRewards
from oprime_gateway.columns import floats, in_base64


def test_numbers_in_base64_are_those_that_json_would_have() -> None:
    dice = np.random.default_rng(0)
    values = np.concatenate([dice.normal(size=2000), 10.0 ** dice.uniform(-12, 6, 500), [0.05, -0.9438169, 0.0, 1e-37, 3.4028235e38]])
    sent = values.astype(np.float32)
    received = TokenRewards.of({"rewards": in_base64(sent, "<f4")}).rewards
    assert list(received) == floats(sent)
    assert list(received[-5:-2]) == [0.05, -0.9438169, 0.0]


def test_a_step_without_a_value_stays_without() -> None:
    spans = {f"{unit}_{end}": [0, 1] for unit in ("char", "token") for end in ("start", "end")}
    assert StepRewards.of({"rewards": in_base64([0.1, float("nan")], "<f4"), **spans}).rewards == [0.1, None]
