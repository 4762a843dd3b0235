"""For TRL: `GRPOTrainer(reward_funcs=reward_funcs("math"))`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oprime_verifier.shims.client import request_of, shared_client

RewardFunction = Callable[..., list[float | None]]


def reward_funcs(*kinds: str, gold: str = "solution") -> list[RewardFunction]:
    """One reward function per verifier; without a name, one that reads the kind from the ground truth."""
    return [verifier_reward(kind, gold=gold, name=f"oprime_{kind}" if kind else "oprime") for kind in kinds or ("",)]


def verifier_reward(
    kind: str = "", *, gold: str = "solution", options: Mapping[str, Any] | None = None, name: str = "oprime"
) -> RewardFunction:
    """A reward function that takes the ground truth from the column `gold`.

    A response that cannot be judged gets None, which TRL leaves out. An empty `kind` is read from the ground truth.
    """

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        if gold not in columns:
            raise ValueError(f"the data set has no column {gold!r}: name the one with the ground truth, verifier_reward(gold=...)")
        rows = zip(completions, columns[gold], prompts, strict=True)
        requests = [
            request_of(_text(completion), truth, kind=kind, options=dict(options or {}), prompt=_text(prompt))
            for completion, truth, prompt in rows
        ]
        return [outcome.score for outcome in shared_client().verify(requests)]

    reward.__name__ = name
    return reward


def _text(value: Any) -> str:
    """A text, or the last turn of a chat."""
    return value if isinstance(value, str) else str(value[-1].get("content") or "") if value else ""
