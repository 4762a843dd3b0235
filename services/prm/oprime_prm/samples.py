"""RUN/samples/step-000010.jsonl: some groups of a batch with every token's process reward, for people to look at."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from oprime.core.types import VerifiedRollout


def write_samples(
    folder: Path,
    step: int,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[VerifiedRollout],
    rewards: Sequence[np.ndarray],
    *,
    prm_version: int,
    groups: int,
) -> None:
    """Write the first `groups` groups of a batch, whole or not at all."""
    if groups == 0:
        return
    rows: dict[int, dict[str, object]] = {}
    for verified, values in zip(rollouts, rewards, strict=True):
        rollout = verified.rollout
        if rollout.group_id not in rows:
            if len(rows) == groups:
                continue
            rows[rollout.group_id] = {
                "step": step,
                "group_id": rollout.group_id,
                "prompt": tokenizer.decode(rollout.prompt_ids.tolist()),
                "prm_version": prm_version,
                "rollouts": [],
            }
        members = rows[rollout.group_id]["rollouts"]
        assert isinstance(members, list)  # noqa: S101 - made three lines above
        members.append(_row(tokenizer, verified, values))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    partial.rename(path)


def _row(tokenizer: PreTrainedTokenizerBase, verified: VerifiedRollout, values: np.ndarray) -> dict[str, object]:
    rollout = verified.rollout
    return {
        "index": rollout.index,
        "outcome_reward": verified.outcome_reward,
        "outcome_status": verified.outcome.status.value,
        "finish_reason": rollout.finish_reason.value,
        "tokens": [str(tokenizer.decode([token])) for token in rollout.response_ids.tolist()],
        "process_rewards": [round(float(value), 6) for value in values],
        "behaviour_logprobs": [round(float(value), 6) for value in rollout.behaviour_logprobs],
    }
