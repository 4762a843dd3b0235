"""Shims for other trainers, handed what these hand over (as read in their sources), against a gateway that listens.

The PRM's reward of token i of a response is i/2.
"""

import inspect
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gateway_world import FORBIDDEN, CharacterPrm, live
from oprime.client.shims import prime_rl, skyrl, trl, verl
from oprime.client.shims.asking import UnscoredError, close_shared_client, token_rewards


@asynccontextmanager
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[None]:
    async with live(tmp_path, **options) as url:
        monkeypatch.setenv("OPRIME_REWARDS", url)
        try:
            yield
        finally:
            await close_shared_client()


@dataclass
class Proto:
    """As much of verl's DataProto as a reward manager sees."""

    batch: dict[str, torch.Tensor]
    non_tensor_batch: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batch["responses"])

    def __getitem__(self, place: int) -> SimpleNamespace:
        return SimpleNamespace(
            batch={name: values[place] for name, values in self.batch.items()},
            non_tensor_batch={name: values[place] for name, values in self.non_tensor_batch.items()},
        )


def padded_batch() -> Proto:
    """Two trajectories as the trainer has them: prompts padded on the left, responses on the right."""
    prompts = torch.tensor([[0, 11, 12], [13, 14, 15]])
    responses = torch.tensor([[21, 22, 23, 24], [25, 26, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
    return Proto(batch={"prompts": prompts, "responses": responses, "attention_mask": mask})


async def test_verl_s_batch_gets_a_reward_on_every_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, prm = padded_batch(), CharacterPrm()
    manager = verl.TokenRewardManager(config=None, tokenizer=None, compute_score=None, reward_router_address=None)
    async with gateway(tmp_path, monkeypatch, prm=prm):
        # Each worker scores rows of its own and sends its results to the trainer.
        rows = [Proto(batch={name: values[place : place + 1] for name, values in data.batch.items()}) for place in range(2)]
        results = [pickle.loads(pickle.dumps(await manager.run_single(row))) for row in rows]  # noqa: S301 - our own
    scores = verl.TokenRewardManager.assemble_rm_scores(data, [result["reward_score"] for result in results])
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[0.0, 0.5, 1.0, 1.5], [0.0, 0.5, 0.0, 0.0]]
    assert [float(result["reward_score"]) for result in results] == [3.0, 0.5]
    assert [len(item.tokens.prompt_ids) // 4 for item in prm.items] == [2, 3]


async def test_verl_s_agent_loop_gets_them_where_it_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = verl.TokenRewardManager(config=None, tokenizer=None)
    # Two outputs of one trajectory, padded on the right, of which the last gets the reward.
    streamed = Proto(
        batch={
            "prompts": torch.tensor([[11, 12, 13], [14, 15, 0]]),
            "responses": torch.tensor([[21, 0, 0], [22, 23, 24]]),
            "attention_mask": torch.ones(2, 6, dtype=torch.long),
        },
        non_tensor_batch={"prompt_len": np.array([3, 2]), "response_len": np.array([1, 3])},
    )
    async with gateway(tmp_path, monkeypatch):
        result = await manager.run_single(streamed)
        other = await manager.run_single(padded_batch())
    # What the agent loop makes of it: one number per response, and arrays of everything else.
    infos = [result["reward_extra_info"], other["reward_extra_info"]]
    batch = Proto(
        batch={
            "responses": torch.tensor([[22, 23, 24], [25, 26, 0]]),
            "response_mask": torch.tensor([[1, 0, 1], [1, 1, 0]]),
            "rm_scores": torch.tensor([[0.0, 0.0, 1.5], [0.0, 0.5, 0.0]]),
        },
        non_tensor_batch={name: np.array([info[name] for info in infos]) for name in infos[0]},
    )
    found = verl.with_token_rewards(batch)
    # A token that a tool wrote has no reward.
    assert found.batch["rm_scores"].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.5, 0.0]]
    without = Proto(batch={"responses": torch.zeros(1, 1)})
    assert verl.with_token_rewards(without) is without


def test_scores_of_another_manager_are_refused() -> None:
    with pytest.raises(TypeError, match="scores without token rewards"):
        verl.TokenRewardManager.assemble_rm_scores(padded_batch(), [1.0, 2.0])


async def test_trl_gets_a_number_per_completion_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (reward,) = trl.reward_funcs()
    (mean,) = trl.reward_funcs(sequence_reduction="sum_per_token")
    assert inspect.iscoroutinefunction(reward)
    assert reward.__name__ == "oprime_process_reward"
    logged: dict[str, float] = {}
    prm = CharacterPrm()
    columns: dict[str, Any] = {"solution": ["7", "8"], "completion_ids": [[1], [2]], "trainer_state": None, "log_extra": None}
    chats = [[{"role": "user", "content": "q"}]] * 2
    answers = [[{"role": "assistant", "content": "abc"}], [{"role": "assistant", "content": FORBIDDEN}]]
    async with gateway(tmp_path, monkeypatch, prm=prm):
        of_chats = await reward(prompts=chats, completions=answers, log_metric=logged.__setitem__, **columns)
        of_texts = await reward(prompts=["<q>"], completions=["abc"])
        of_tokens = await mean(prompts=["<q>"], completions=["abc"])
    assert (of_chats, of_texts, of_tokens) == ([3.0, None], [1.5], [0.5])
    assert logged == {"oprime/unscored": 0.5}
    assert (prm.items[0].chat.response, prm.items[2].text.prompt) == ("abc", "<q>")


@dataclass
class Node:
    """As much of a node of prime-rl's traces as counts."""

    token_ids: list[int]
    mask: list[bool]
    parent: int | None


async def test_prime_rl_gets_an_advantage_per_sampled_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A question of two tokens, two sampled ones, an observation of one, two sampled ones: rewards 0, .5, (1), 1.5, 2.
    asked, observed = Node([1, 2], [False, False], None), Node([5], [False], 1)
    long = SimpleNamespace(reward=1.0, nodes=[asked, Node([3, 4], [True, True], 0), observed, Node([6, 7], [True, True], 2)])
    # Two branches behind the first sampled node.
    forked = SimpleNamespace(
        reward=0.0, nodes=[asked, Node([3, 4], [True, True], 0), Node([8], [True], 1), Node([9, 9], [True, True], 1), Node([0], [False], 0)]
    )
    async with gateway(tmp_path, monkeypatch):
        rewards = await prime_rl.sampled_rewards([long, forked])
        advantages = await prime_rl.group_advantages([long, forked])
    assert rewards == [[0.0, 0.5, 1.5, 2.0], [0.0, 0.5, 1.0, 1.0, 1.5]]
    assert [len(one) for one in advantages] == [4, 5]
    # The last token: its reward less the sibling's mean of .8, and the outcome's lead of 1.
    assert advantages[0][-1] == pytest.approx(2.0 - 0.8 + 1.0)


async def test_skyrl_gets_rewards_per_token_with_the_outcome_on_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = {
        "prompt_token_ids": [[1, 2], [1, 2], [1]],
        "response_ids": [[3, 4, 5], [6, 7], []],
        "loss_masks": [[1, 0, 1], [1, 1], []],
        "rewards": [1.0, [0.0, 0.5], 1.0],
        "stop_reasons": ["stop", "length", "stop"],
    }
    async with gateway(tmp_path, monkeypatch):
        found = await skyrl.with_token_rewards({**output, "rewards": [1.0, 0.5, 1.0]}, process_weight=2.0)
        same = await skyrl.with_token_rewards(output, process_weight=2.0)
    assert found["rewards"] == [[0.0, 0.0, 3.0], [0.0, 1.5], []]
    assert (same["rewards"], found["stop_reasons"]) == (found["rewards"], output["stop_reasons"])


async def test_a_response_that_cannot_be_scored_is_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oprime.client.shims.asking import all_scored

    async with gateway(tmp_path, monkeypatch):
        with pytest.raises(UnscoredError, match=r"response 1 could not be scored \(9 tokens"):
            await all_scored([{"prompt": "p", "response": "a"}, {"prompt": "p", "response": FORBIDDEN}])
        assert await token_rewards([([1], [2, 3])]) == [[0.0, 0.5]]
