"""What the learner's ranks save and load, on plain engines and a real weight store."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
import torch

from fakes import OneRank
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.store_weights import StoreWeights
from oprime.core.token_rows import token_rows
from oprime.lm.checkpoints import begin_part, checkpoint_root, complete_part
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.runtime.errors import CheckpointError
from oprime.runtime.weight_transfer import Transfer
from oprime_learner.config import LearnerSettings
from oprime_learner.rank_methods import Models, RankMethods
from oprime_learner.servicer import LearnerServicer, Progress
from oprime_proto.v1 import learner_pb2
from plain_engine import PlainEngine
from tiny_policies import write_policy

ROWS = token_rows([[5, 6], [7]], [[8, 9, 10], [11]], pad_id=0)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    write_policy(tmp_path / "model")
    return tmp_path / "model"


def learner(start: Path, *, estimator: str) -> tuple[RankMethods, dict[str, PlainEngine]]:
    settings = LearnerSettings.model_validate(
        {
            "run": {"name": "one", "directory": start.parent, "steps": 9},
            "model": {"path": str(start)},
            "algorithm": {"estimator": estimator},
        }
    )
    engines = {"policy": PlainEngine(TokenLogprobModel(load_causal_lm(start), chunk_tokens=8))}
    if estimator == "ppo":
        engines["critic"] = PlainEngine(TokenValueModel(load_causal_lm(start)))
    models = Models(
        channel=OneRank(),
        engine=engines["policy"],
        critic_engine=engines.get("critic"),
        trainer=cast("Any", None),
        store=StoreWeights(str(settings.run.folder / "weights"), template=start, dtype="float32"),
        payloads=MemoryPayloads(),
    )
    return RankMethods(models, settings), engines


def train(engines: dict[str, PlainEngine]) -> None:
    for engine in engines.values():
        engine.train_step([ROWS], lambda _, numbers: (numbers - 1).square().sum(), learning_rate=1e-2)


def weights(engines: dict[str, PlainEngine]) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": tensor for name, engine in engines.items() for key, tensor in engine.weights()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_policy_and_critic_go_on_from_their_checkpoint_to_the_bit(start: Path) -> None:
    methods, engines = learner(start, estimator="ppo")
    assert methods.load(methods.newest_checkpoint()) == 0
    train(engines)
    methods.save(methods.new_checkpoint(4))
    train(engines)
    again, restored = learner(start, estimator="ppo")
    assert again.load(again.newest_checkpoint()) == 4
    train(restored)
    assert_equal(weights(restored), weights(engines))


def test_a_learner_that_was_killed_between_its_two_parts_goes_on_from_the_older_pair(start: Path) -> None:
    methods, engines = learner(start, estimator="ppo")
    train(engines)
    methods.save(methods.new_checkpoint(4))
    saved = weights(engines)
    train(engines)
    part = begin_part(checkpoint_root(start.parent / "one"), 6, "policy")
    engines["policy"].save(part)
    complete_part(part, 6)
    again, restored = learner(start, estimator="ppo")
    assert again.load(again.newest_checkpoint()) == 4
    assert_equal(weights(restored), saved)


def test_ppo_does_not_go_on_from_a_run_without_a_critic(start: Path) -> None:
    methods, engines = learner(start, estimator="rloo")
    train(engines)
    methods.save(methods.new_checkpoint(4))
    assert {folder.name for folder in checkpoint_root(start.parent / "one").glob("*/*")} == {"policy"}
    with pytest.raises(CheckpointError, match=r"step-000004 holds no critic, which algorithm.estimator needs"):
        learner(start, estimator="ppo")[0].newest_checkpoint()


async def test_status_says_how_far_the_learner_is() -> None:
    progress = Progress(step=3, trained_tokens=70)
    with progress.meter:
        await asyncio.sleep(0.01)
    answer = await LearnerServicer(progress).Status(learner_pb2.LearnerServiceStatusRequest(), None)
    assert (answer.step, answer.weight_version, answer.trained_tokens) == (3, 3, 70)
    assert answer.busy_seconds >= 0.01


class UnreachableGenerators:
    """A sender whose group never comes about, after the first tensor."""

    def send(self, transfer: Transfer, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        next(weights)
        raise ConnectionError(f"nobody came to {transfer.host}:{transfer.port}")


def test_a_version_that_no_generator_took_is_in_the_store_and_ends_nothing(start: Path) -> None:
    methods, engines = learner(start, estimator="rloo")
    methods = RankMethods(replace(methods.models, sender=UnreachableGenerators()), methods._settings)
    methods.publish(b"1")
    transfer = Transfer(
        version=1, host="learner", port=29600, world_size=2, first_ranks={"one": 1}, names=(), dtypes=(), shapes=()
    )  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        methods.send(transfer.to_json())
    (line,) = logs
    assert (line["event"], line["weight_version"]) == ("weights_not_sent", 1)
    assert "nobody came to learner:29600" in line["error"]
    assert methods.models.store.latest() == 1
    # All ranks go through the weights together: none of them may be left waiting.
    assert len(methods.published) == len(list(engines["policy"].weights()))
