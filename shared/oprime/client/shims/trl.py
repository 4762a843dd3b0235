"""For TRL: `GRPOTrainer(reward_funcs=reward_funcs())`. TRL takes one number per response."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Unpack

from oprime.client.forms import RewardInput, ScoringOptions
from oprime.client.shims.asking import shared_client

RewardFunction = Callable[..., Awaitable[list[float | None]]]


def reward_funcs(**options: Unpack[ScoringOptions]) -> list[RewardFunction]:
    """One reward function: the sum of the process rewards, or whatever the options of POST /v1/rewards make of them."""
    return [ProcessReward(options).make()]


class ProcessReward:
    """Makes reward functions. They are coroutine functions, which TRL runs beside each other."""

    def __init__(self, options: ScoringOptions) -> None:
        self._options = options

    def make(self) -> RewardFunction:
        options = self._options

        async def oprime_process_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
            """A response that cannot be scored gets None, which TRL leaves out."""
            inputs = [input_of(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
            answer = await shared_client().rewards(inputs, granularity=["sequence"], **options)
            log_metric = columns.get("log_metric")
            if log_metric is not None:
                log_metric("oprime/unscored", sum(item.error is not None for item in answer.items) / max(1, len(answer.items)))
            return [None if item.error else item.reward for item in answer.items]

        return oprime_process_reward


def input_of(prompt: Any, completion: Any) -> RewardInput:
    """Conversations are written by the PRM's chat template; texts are scored as the policy read and wrote them."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "response": completion, "raw": True}
    *turns, last = [*prompt, *completion]
    return {"messages": [*map(_message, turns), _message(last)]}


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    """Role and content alone; calls of tools are no text that a PRM reads."""
    return {"role": turn["role"], "content": turn.get("content") or ""}
