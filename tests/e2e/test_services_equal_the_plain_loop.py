"""With staleness bound 0, six services over gRPC and Redis compute what one readable loop computes."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from e2e.command_line import metric_rows, oprime
from e2e.conftest import small_run
from e2e.generator_with_a_tool import FIRST_TURN, tool
from golden.prime_in_one_file import Rollout, Settings, is_right, train
from oprime.adapters.local_redis import LocalRedis
from oprime.adapters.redis_payloads import RedisPayloads
from oprime.core.types import Task, rollout_seed
from oprime.lm.checkpoints import checkpoint_root, newest_complete, parts_of
from oprime.lm.sampling import SampledTokens, sample_response
from oprime.lm.tokenizers import render_prompt
from oprime.runtime.settings import ChainSection
from oprime_cli.files import write_toml
from oprime_cli.overrides import load_config
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices
from oprime_cli.running.launch import free_ports
from oprime_cli.running.run_folder import RunFolder, to_document
from oprime_cli.running.services import service_specs
from oprime_cli.running.supervisor import Guard, Supervisor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEPS = 3
GROUPS = 4
PRM_LEARNING_RATE = 3e-4
CRITIC_LEARNING_RATE = 3e-4
ADAM_EPS = 1e-5
"""Larger than the rounding noise of a gradient that is zero in exact arithmetic (the keys' bias), so that Adam does not
blow that noise up to a full step."""

GENERATOR = Path(__file__).parent / "generator_with_a_tool.py"


@dataclass(frozen=True, kw_only=True)
class Case:
    estimator: str = "rloo"
    ranks: int = 1
    zero_stage: int = 0
    temperature: float = 1.0

    @property
    def of_run(self) -> dict[str, object]:
        """What the services are set to."""
        return {
            "run.steps": STEPS,
            "algorithm.estimator": self.estimator,
            "sampling.temperature": self.temperature,
            "coordinator.groups_per_batch": GROUPS,
            "staleness.max_staleness": 0,
            "store.keep_versions": 10,
            **{f"{service}.ranks": self.ranks for service in ("learner", "prm")},
            **{f"{model}.zero_stage": self.zero_stage for model in ("learner", "prm", "critic")},
            "critic.learning_rate": CRITIC_LEARNING_RATE,
            "critic.adam_eps": ADAM_EPS,
            "prm.learning_rate": PRM_LEARNING_RATE,
            "learner.adam_eps": ADAM_EPS,
            "prm.adam_eps": ADAM_EPS,
        }

    @property
    def of_loop(self) -> Settings:
        """The same for the plain loop."""
        return Settings(
            steps=STEPS,
            estimator=self.estimator,
            temperature=self.temperature,
            critic_learning_rate=CRITIC_LEARNING_RATE,
            groups_per_batch=GROUPS,
            prm_learning_rate=PRM_LEARNING_RATE,
            adam_eps=ADAM_EPS,
            chain=ChainSection(operations=2, heldout_problems=8),
        )


# Each way to train is in `make test` once, PPO on one rank in test_kill_and_resume; all of them with each other are in `make test-all`.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(), id="1 rank"),
        pytest.param(Case(ranks=2, zero_stage=3), id="2 ranks, ZeRO 3", marks=pytest.mark.slow),
        pytest.param(Case(estimator="ppo"), id="PPO", marks=pytest.mark.slow),
        pytest.param(Case(estimator="ppo", ranks=2, zero_stage=3), id="PPO, 2 ranks, ZeRO 3", marks=pytest.mark.slow),
        pytest.param(Case(estimator="remax", temperature=0.8), id="ReMax, temperature 0.8", marks=pytest.mark.slow),
    ],
)
def test_weights_after_three_steps_agree_to_a_millionth(case: Case, starting_model: Path, tmp_path: Path) -> None:
    result = oprime(*small_run(starting_model, tmp_path, "synchronous", **case.of_run))
    assert result.returncode == 0, result.stdout + result.stderr
    models = train(str(starting_model), case.of_loop)
    run = tmp_path / "synchronous"
    ledger = json.loads((run / "summary.json").read_text())["ledger_states"]
    assert ledger.get("baseline", 0) == (STEPS * GROUPS if case.estimator == "remax" else 0)
    assert json.loads((run / "summary.json").read_text())["ledger_closed"]
    assert_same_training(run, models, case, starting_model)


def assert_same_training(run: Path, models: tuple[torch.nn.Module, ...], case: Case, starting_model: Path) -> None:
    """The services' policy, PRM and critic (of PPO) are those of the plain loop, and not what they began with."""
    steps = metric_rows(run, "step")
    assert max(row["staleness_max"] for row in steps) == 0
    assert max(abs(row["mismatch_kl_nats"]) for row in steps) < 1e-4
    start = load_file(starting_model / "model.safetensors")
    before = start | {key.replace("model.", "backbone."): tensor for key, tensor in start.items()}
    names = ("weights", "prm_weights", "critic")
    for name, model in list(zip(names, models, strict=True))[: 3 if case.estimator == "ppo" else 2]:
        trained = trained_weights(run, name)
        apart = {key: float((trained[key] - parameter.detach()).abs().max()) for key, parameter in model.named_parameters()}
        # What remains is float32 rounding: the services compute log-probs in chunks and sum gradients in another order.
        assert max(apart.values()) < 1e-6, f"{name}: {apart}"
        moved = max(float((trained[key] - before[key]).abs().max()) for key in trained.keys() & before.keys())
        assert moved > 1e-4, f"{name} did not train"


def trained_weights(run: Path, name: str) -> dict[str, Tensor]:
    """Weights after the last step: as published, or the critic's from the checkpoint."""
    if name != "critic":
        return load_file(run / name / f"v{STEPS:08d}" / "model.safetensors")
    saved = load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "critic" / "state-00000.safetensors")
    return {key.removeprefix("master/"): tensor for key, tensor in saved.items() if key.startswith("master/")}


# Responses of several turns


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(), id="1 rank", marks=pytest.mark.slow),
        pytest.param(Case(estimator="ppo", ranks=2, zero_stage=3), id="PPO, 2 ranks, ZeRO 3"),
    ],
)
def test_weights_agree_where_a_tool_writes_into_the_middle_of_responses(case: Case, starting_model: Path, tmp_path: Path) -> None:
    _, config, *overrides = small_run(starting_model, tmp_path, "tool", **case.of_run)
    train_with_tool(load_config(Path(config), [change for change in overrides if change != "--set"]))
    seen: list[Rollout] = []

    def respond(*arguments: Any) -> Rollout:
        seen.append(respond_with_tool(*arguments))
        return seen[-1]

    models = train(str(starting_model), case.of_loop, respond)
    # The first token is the policy's, the second the tool's, the rest the policy's again.
    with_tool = [rollout.mask for rollout in seen if rollout.mask == [True, False] + [True] * (len(rollout.response) - 2)]
    assert len(with_tool) > 0.9 * len(seen)
    assert_same_training(tmp_path / "tool", models, case, starting_model)


def respond_with_tool(
    settings: Settings, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_ids: list[int], group: int, task: Task, index: int
) -> Rollout:
    """What `generator_with_a_tool` gives for one seed."""
    prompt, seed = render_prompt(tokenizer, task.messages), rollout_seed(settings.seed, group, index)

    def turn(said: list[int], seed: int, most: int) -> SampledTokens:
        return sample_response(policy, [*prompt, *said], temperature=settings.temperature, max_tokens=most, seed=seed, end_ids=end_ids)

    first = turn([], seed, FIRST_TURN)
    response, mask, logprobs = list(first.response_ids), [True] * FIRST_TURN, list(first.behaviour_logprobs)
    if response[-1] not in end_ids:
        told = tool(tokenizer, prompt, index)
        last = turn([*response, *told], seed + 1, settings.max_response_tokens - len(response) - len(told))
        response += [*told, *last.response_ids]
        mask += [False] * len(told) + [True] * len(last.response_ids)
        logprobs += last.behaviour_logprobs
    outcome = is_right(str(tokenizer.decode(response, skip_special_tokens=True)), task.ground_truth)
    return Rollout(group, prompt, response, torch.tensor(logprobs), outcome, response[-1] not in end_ids, mask=mask)


def train_with_tool(config: RunConfig) -> None:
    """What `oprime train` does, with `generator_with_a_tool` in the generator's place."""
    folder = RunFolder(config.run.folder)
    folder.logs.mkdir(parents=True)
    with Guard() as guard, LocalRedis.start(folder.redis) as redis, free_ports(config.endpoints) as endpoints:
        guard.watch(redis.pid)
        queue = config.queue.model_copy(update={"url": redis.url})
        own = config.model_copy(update={"endpoints": endpoints, "queue": queue})
        write_toml(folder.config, to_document(own))
        specs = {spec.name: spec for spec in service_specs(own, folder.config, Devices(), serve_only=False)}
        specs["generator"] = replace(specs["generator"], argv=(sys.executable, str(GENERATOR), str(folder.config)))
        payloads = RedisPayloads.connect(redis.url, run=config.run.name)
        with Supervisor(specs.values(), guard=guard, logs=folder.logs) as supervisor:
            supervisor.start()
            # A run that is finished has a checkpoint of its last step, and no payload is left.
            while not is_saved(folder, config) or any(payloads.names()):
                supervisor.check()
                time.sleep(0.2)


def is_saved(folder: RunFolder, config: RunConfig) -> bool:
    newest = newest_complete(checkpoint_root(folder.path), parts_of(config.algorithm))
    return newest is not None and newest[0] == STEPS
