"""RUN/samples/learned-000010.jsonl: what the policy learned from the first groups of a batch, token by token, for people to look at.

The PRM writes the same groups with their text and rewards as step-000010.jsonl; readers join them by group and index.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from oprime.core.types import Batch
from oprime.lm.batches import MicroBatch, by_place
from oprime_learner.parts import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRollout:
    """One value per token that was trained on."""

    advantages: list[float]
    policy_logprobs: list[float]
    """Of the policy that was about to learn from it."""


class PolicyLogprobs:
    """This rank's log-probs of the first `rollouts` rollouts of a batch, as the policy was before each optimizer step."""

    def __init__(self, rollouts: int) -> None:
        self._rollouts = rollouts
        self._known: dict[int, list[float]] = {}

    def add(self, part: Part, micro: MicroBatch, logprobs: Tensor) -> None:
        """`logprobs` [rollout, token] of one micro-batch."""
        if part.first >= self._rollouts:
            return
        for place, values in by_place([micro], [logprobs], first=part.first):
            if place < self._rollouts:
                self._known[place] = _rounded(values)

    def to_bytes(self) -> bytes:
        return json.dumps(self._known).encode()


def learned_rollouts(gathered: Sequence[bytes] | None, advantages: Sequence[Tensor]) -> list[LearnedRollout]:
    """The first rollouts in the order of the batch, from what all ranks gathered; empty except on rank 0."""
    known = {int(place): values for payload in gathered or () for place, values in json.loads(payload).items()}
    return [LearnedRollout(advantages=_rounded(advantages[place]), policy_logprobs=known[place]) for place in sorted(known)]


def write_learned(folder: Path, batch: Batch, learned: Sequence[LearnedRollout]) -> None:
    """Write the groups to which `learned` belongs, whole or not at all."""
    rollouts = iter(learned)
    lines: list[str] = []
    count = len(learned)
    for group in batch.groups:
        if count < len(group.rollouts):
            break
        count -= len(group.rollouts)
        rows = [{"index": verified.rollout.index, **_columns(next(rollouts))} for verified in group.rollouts]
        lines.append(json.dumps({"step": batch.step, "group_id": group.group_id, "rollouts": rows}) + "\n")
    if not lines:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"learned-{batch.step:06d}.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.rename(path)


def _columns(learned: LearnedRollout) -> dict[str, list[float]]:
    return {"advantages": learned.advantages, "policy_logprobs": learned.policy_logprobs}


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]
