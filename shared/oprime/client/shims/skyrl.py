"""For SkyRL: token rewards in the output of a generator.

    from oprime.client.shims.skyrl import with_token_rewards

    class ProcessRewardGenerator(SkyRLGymGenerator):
        async def generate(self, input_batch):
            return await with_token_rewards(await super().generate(input_batch))

SkyRL takes `rewards` per token or per response, and makes its advantages of them. SkyRL is not imported here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oprime.client.shims.asking import token_rewards


async def with_token_rewards(output: Mapping[str, Any], *, process_weight: float = 1.0, outcome_weight: float = 1.0) -> dict[str, Any]:
    """The output with `rewards` per token: process rewards where the loss mask is 1, and the outcome on the last of these.

    Outcomes are what the environment gave, summed where it gave them per token. Raises UnscoredError.
    """
    pairs = list(zip(output["prompt_token_ids"], output["response_ids"], strict=True))
    # A response without tokens has none to reward, and a PRM reads no empty one.
    scored = iter(await token_rewards([pair for pair in pairs if pair[1]]))
    process = [next(scored) if response else [] for _, response in pairs]
    outcomes = [sum(reward) if isinstance(reward, Sequence) else reward for reward in output["rewards"]]
    rows = zip(process, output["loss_masks"], outcomes, strict=True)
    rewards = [_weighted(row, mask, outcome, process_weight, outcome_weight) for row, mask, outcome in rows]
    return {**output, "rewards": rewards}


def _weighted(process: Sequence[float], mask: Sequence[int], outcome: float, process_weight: float, outcome_weight: float) -> list[float]:
    rewards = [process_weight * reward if is_trained else 0.0 for reward, is_trained in zip(process, mask, strict=True)]
    last = max((place for place, is_trained in enumerate(mask) if is_trained), default=None)
    if last is not None:
        rewards[last] += outcome_weight * outcome
    return rewards
