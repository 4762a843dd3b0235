"""Policy and critic on two DeepSpeed engines in one process learn what plain torch learns, however they are split."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from e2e.forked import run_ranks
from e2e.test_train_engine import free_port
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime_learner.config import CriticSection, LearnerSection
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.policy_trainer import PolicyTrainer
from plain_engine import PlainEngine
from rollouts import CONTENTS
from tiny_models import tiny_model
from two_engines import ALGORITHM, SECTION, STAGES, batch

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WORKER = "e2e.two_engines_worker"


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """Policy and critic after two steps on plain engines."""
    engines = {
        "policy": PlainEngine(TokenLogprobModel(tiny_model(), 7), adam_eps=SECTION["adam_eps"]),
        "critic": PlainEngine(TokenValueModel(tiny_model()), adam_eps=SECTION["adam_eps"]),
    }
    critic = CriticTrainer(engines["critic"], ALGORITHM, CriticSection.model_validate(SECTION), total_steps=10)
    section = LearnerSection.model_validate(SECTION)
    trainer = PolicyTrainer(engines["policy"], ALGORITHM, section, CONTENTS, pad_id=0, total_steps=10, critic=critic)
    for step in (1, 2):
        trainer.process(*batch(step))
    return {f"{name}/{key}": tensor for name, engine in engines.items() for key, tensor in engine.weights()}


@pytest.fixture(scope="module", params=(1, 2), ids=["1 rank", "2 ranks"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Every run of a worker per rank, by name."""
    ranks: int = request.param
    out = tmp_path_factory.mktemp("two_engines")
    run_ranks(WORKER, (out,), ranks=ranks, port=free_port(), output=out, timeout_s=500)
    return load_file(out / f"ranks-{ranks}.safetensors")


def weights_of(trained: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in trained.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("micro_batch", [1, 5])
@pytest.mark.parametrize("stage", STAGES)
def test_policy_and_critic_equal_those_of_plain_torch(
    trained: dict[str, Tensor], plain: dict[str, Tensor], stage: int, micro_batch: int
) -> None:
    ours = weights_of(trained, f"stage {stage} micro {micro_batch}")
    assert ours.keys() == plain.keys()
    assert {key.partition("/")[0] for key in ours} == {"policy", "critic"}
    for key, tensor in plain.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_changes_not_a_bit_of_either(trained: dict[str, Tensor], stage: int) -> None:
    straight, resumed = (weights_of(trained, f"stage {stage} {name}") for name in ("micro 5", "resumed"))
    assert straight.keys() == resumed.keys()
    assert [key for key, tensor in straight.items() if not torch.equal(tensor, resumed[key])] == []


def test_in_bfloat16_the_critic_takes_the_same_way(trained: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    # Its head starts at 0, so its weights are the way that it went.
    half, exact = weights_of(trained, "bfloat16")["critic/value_head.weight"], plain["critic/value_head.weight"]
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float(), exact).item() > 0.98


def test_both_models_moved(plain: dict[str, Tensor]) -> None:
    start = {key: parameter.detach() for key, parameter in tiny_model().named_parameters()}
    for name, prefix in (("policy/", ""), ("critic/", "model.")):
        apart = [
            float((tensor - start[prefix + key.removeprefix(name).removeprefix("backbone.")]).abs().max())
            for key, tensor in plain.items()
            if key.startswith(name) and "value_head" not in key
        ]
        assert max(apart) > 1e-4, name
