"""For verl: a reward manager that gives every response token its reward.

    reward.reward_manager.source=importlib
    reward.reward_manager.name=TokenRewardManager
    reward.reward_manager.module.path=pkg://oprime.client.shims.verl
    +actor_rollout_ref.rollout.agent.agent_loop_manager_class=oprime.client.shims.verl_agent_loop.TokenRewardAgentLoopManager

verl itself puts one number on the last token in two places: where it scores a batch, which asks this class (`assemble_rm_scores`), and
where it scores responses as they end, in its agent loop, for which the last line is. verl is not imported here.
"""

import base64
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from oprime.client.shims.asking import token_rewards

TOKEN_REWARDS = "oprime_token_rewards"  # noqa: S105 - no password
"""Name under which they travel through verl, as base64 of float32: verl makes numpy arrays of what it carries along, and lists of different
lengths make none."""


class TokenRewardManager:
    """Has the methods of verl's RewardManagerBase."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any) -> None:
        """Neither a reward function nor a reward model is asked; the gateway is that of OPRIME_REWARDS."""
        self.config = config
        self.tokenizer = tokenizer

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The rewards of the last sequence of a trajectory, which is the one that verl gives its reward to."""
        (rewards,) = await token_rewards([ids_of_last(data)])
        return {
            "reward_score": TokenRewardSum(rewards),
            "reward_extra_info": {TOKEN_REWARDS: encoded(rewards), "oprime_reward_mean": math.fsum(rewards) / len(rewards)},
        }

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[float]) -> Any:
        """`rm_scores` of a batch, a float32 tensor in the shape of its responses."""
        import torch

        columns = data.batch["responses"].shape[1]
        rows = [list(score.tokens)[:columns] for score in scores if isinstance(score, TokenRewardSum)]
        if len(rows) != len(scores):
            raise TypeError("scores without token rewards: use this reward manager in every reward worker")
        table = torch.tensor([row + [0.0] * (columns - len(row)) for row in rows], dtype=torch.float32)
        mask = data.batch["response_mask"] if "response_mask" in data.batch.keys() else None  # noqa: SIM118 - a TensorDict
        return table if mask is None else table * mask


class TokenRewardSum(float):
    """A reward for whoever wants one number, and those of the tokens."""

    tokens: tuple[float, ...]

    def __new__(cls, tokens: Sequence[float]) -> "TokenRewardSum":
        made = super().__new__(cls, math.fsum(tokens))
        made.tokens = tuple(tokens)
        return made

    def __reduce__(self) -> tuple[type["TokenRewardSum"], tuple[tuple[float, ...]]]:
        """verl's workers are other processes."""
        return TokenRewardSum, (self.tokens,)


def ids_of_last(data: Any) -> tuple[list[int], list[int]]:
    """Prompt and response ids of the last row of a DataProto, without padding.

    Batches pad prompts on the left and have a mask; the agent loop pads on the right and says the lengths.
    """
    row = data[len(data) - 1]
    prompts, responses = row.batch["prompts"].tolist(), row.batch["responses"].tolist()
    lengths: Mapping[str, Any] = row.non_tensor_batch
    if "prompt_len" in lengths:
        return prompts[: int(lengths["prompt_len"])], responses[: int(lengths["response_len"])]
    mask = row.batch["attention_mask"].tolist()
    kept = [token for token, is_kept in zip(prompts, mask, strict=False) if is_kept]
    return kept, responses[: sum(mask[len(prompts) :])]


def with_token_rewards(batch: Any) -> Any:
    """The agent loop's batch, whose `rm_scores` hold one number per response, with the tokens' rewards in their place."""
    if "rm_scores" not in batch.batch.keys() or TOKEN_REWARDS not in batch.non_tensor_batch:  # noqa: SIM118 - a TensorDict
        return batch
    scores = [TokenRewardSum(decoded(text)) for text in batch.non_tensor_batch[TOKEN_REWARDS]]
    batch.batch["rm_scores"] = TokenRewardManager.assemble_rm_scores(batch, scores)
    return batch


def encoded(rewards: Sequence[float]) -> str:
    return base64.b64encode(array("f", rewards).tobytes()).decode()


def decoded(text: str) -> list[float]:
    values = array("f")
    values.frombytes(base64.b64decode(str(text)))
    return values.tolist()
