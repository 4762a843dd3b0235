"""Operations of the benchmarks' models, counted by hand; forward equivalents, counted on the real PRM and learner."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from bench.operations import FORWARD, TRAINING, ModelShape, learner_passes, matrix_rate, prm_passes
from torch import Tensor

from oprime.core.token_rows import TokenRows
from oprime.core.types import ProcessRewards
from oprime.lm.frozen import FrozenModel
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.runtime.settings import AlgorithmSection
from oprime_learner.config import LearnerSection
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_prm.app import sampled_with
from oprime_prm.config import PrmSection
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.references import References, units_of
from plain_engine import PlainEngine
from rollouts import CONTENTS, STORE, Emitted
from tiny_models import batch_of, tiny_model

SHAPE = ModelShape(hidden=4, layers=2, heads=2, key_value_heads=1, head_size=3, feed_forward=5, vocabulary=7)


def test_a_layer_has_the_weights_of_its_matrices() -> None:
    # Queries and outputs are 4 x 6, keys and values 4 x 3, and the three matrices of the feed-forward layer 4 x 5.
    assert SHAPE.layer_weights == 2 * 24 + 2 * 12 + 3 * 20


def test_a_forward_pass_multiplies_and_adds_once_per_weight_and_token() -> None:
    # Ten tokens through two layers of 132 weights, three of them through the head of 4 x 7: two operations each.
    assert SHAPE.forward_operations(tokens=10, predicted=3) == 2 * (10 * 2 * 132 + 3 * 28)


def test_a_shape_is_read_from_the_config_of_a_model() -> None:
    model = tiny_model()
    counted = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith("model.layers") and weight.ndim == 2)
    shape = ModelShape.of(model.config)
    assert shape.layers * shape.layer_weights == counted
    assert shape.hidden * shape.vocabulary == model.get_parameter("lm_head.weight").numel()


def test_the_matrix_rate_is_that_of_the_fastest_product() -> None:
    # The clock is read around each of two products of size 2, 16 operations each: they take 4 s and 2 s.
    times = iter([0.0, 4.0, 10.0, 12.0])
    assert matrix_rate(lambda: next(times), size=2, repeats=2) == 16 / 2


class Counting(PlainEngine):
    """Counts forward equivalents of every token that it computes."""

    def __init__(self, model: TokenLogprobModel) -> None:
        super().__init__(model)
        self.token_passes = 0

    def logprobs(self, rows: TokenRows) -> Tensor:
        self.token_passes += FORWARD * _tokens(rows)
        return super().logprobs(rows)

    def train_step(
        self, micro_batches: Sequence[TokenRows], loss: Callable[..., Tensor], *, learning_rate: float, entropies: bool = False
    ) -> float:
        self.token_passes += TRAINING * sum(map(_tokens, micro_batches))
        return super().train_step(micro_batches, loss, learning_rate=learning_rate, entropies=entropies)


class CountingReference(FrozenModel):
    token_passes = 0

    def logprobs(self, rows: TokenRows) -> Tensor:
        self.token_passes += FORWARD * _tokens(rows)
        return super().logprobs(rows)


def _tokens(rows: TokenRows) -> int:
    return int(rows.attention_mask.sum())


def _engine() -> Counting:
    return Counting(TokenLogprobModel(tiny_model(), chunk_tokens=8))


def _reference() -> CountingReference:
    return CountingReference(tiny_model(), chunk_tokens=8)


BATCH = batch_of(1, groups=2)
TOKENS = sum(one.rollout.tokens for one in BATCH.rollouts)


@pytest.mark.parametrize("reference", ["sft", "policy"])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("update", ["double_forward", "single_forward", "reverse", "offline"])
def test_the_prm_computes_each_token_as_often_as_its_settings_say(
    update: Literal["double_forward", "single_forward", "reverse", "offline"], updates: int, reference: Literal["sft", "policy"]
) -> None:
    settings = PrmSection(update=update, updates_per_batch=updates, reference=reference, learning_rate=1e-3)
    engine, frozen = _engine(), _reference() if reference == "sft" else None
    references = None
    if frozen is not None:
        references = References(frozen, CONTENTS, STORE, settings, rank=0, ranks=1, pad_id=0)
        references.use(references.compute(units_of(BATCH)))
    ImplicitPrm(engine, CONTENTS, references or sampled_with, settings, pad_id=0, total_steps=10).process(BATCH, Emitted())
    assert engine.token_passes + (frozen.token_passes if frozen else 0) == prm_passes(settings) * TOKENS


@pytest.mark.parametrize(
    ("update", "reference", "passes"),
    [("double_forward", "sft", 5), ("single_forward", "sft", 4), ("double_forward", "policy", 4), ("single_forward", "policy", 3)],
)
def test_the_modes_of_the_prm_cost_what_the_manual_says(update: Any, reference: Any, passes: int) -> None:
    assert prm_passes(PrmSection(update=update, reference=reference)) == passes


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    ("kl", "passes_of_one_update"),
    [({}, 3), ({"kl_coefficient": 0.1}, 4), ({"kl_coefficient": 0.1, "kl_in": "reward"}, 5)],
    ids=["no KL", "KL in the loss", "KL in the reward"],
)
def test_the_learner_computes_each_token_as_often_as_its_settings_say(kl: dict[str, Any], passes_of_one_update: int, updates: int) -> None:
    algorithm, settings = AlgorithmSection.model_validate(kl), LearnerSection(updates_per_batch=updates)
    engine, frozen = _engine(), _reference() if kl else None
    rewards = [np.zeros(one.rollout.trained_tokens, dtype=np.float32) for one in BATCH.rollouts]
    trainer = PolicyTrainer(engine, algorithm, settings, CONTENTS, pad_id=0, total_steps=10, reference=frozen)
    trainer.process(BATCH, ProcessRewards(rollouts=rewards))
    assert engine.token_passes + (frozen.token_passes if frozen else 0) == learner_passes(settings, algorithm) * TOKENS
    if updates == 1:
        assert learner_passes(settings, algorithm) == passes_of_one_update
