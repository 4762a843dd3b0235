"""RUN/samples/step-000010.jsonl: some groups of a batch with every token's process reward, for people to look at."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from oprime.core.types import Rollout, ScoredBatch, TokenFloats, VerifiedRollout
from oprime.ports import Payloads
from oprime.runtime.rollout_payloads import read_rewards, read_rollouts


def write_samples(folder: Path, payloads: Payloads, scored: ScoredBatch, tokenizer: PreTrainedTokenizerBase, *, groups: int) -> None:
    """Write the first `groups` groups of a batch, whole or not at all."""
    chosen = scored.batch.groups[:groups]
    if not chosen:
        return
    count = sum(len(group.rollouts) for group in chosen)
    rewards = iter(read_rewards(payloads, scored.process_rewards, scored.batch).rollouts[:count])
    lines: list[str] = []
    for group in chosen:
        rollouts = read_rollouts(payloads, [verified.rollout for verified in group.rollouts])
        row = {
            "step": scored.batch.step,
            "group_id": group.group_id,
            "prompt": tokenizer.decode(rollouts[0].prompt_ids.tolist()),
            "prm_version": scored.prm_version,
            "rollouts": [
                _row(tokenizer, verified, rollout, next(rewards)) for verified, rollout in zip(group.rollouts, rollouts, strict=True)
            ],
        }
        lines.append(json.dumps(row) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{scored.batch.step:06d}.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.rename(path)


def _row(tokenizer: PreTrainedTokenizerBase, verified: VerifiedRollout, rollout: Rollout, values: TokenFloats) -> dict[str, object]:
    """`tokens` are those that are trained on; what others wrote in between has no reward."""
    return {
        "index": rollout.index,
        "outcome_reward": verified.outcome_reward,
        "outcome_status": verified.outcome.status.value,
        "finish_reason": rollout.finish_reason.value,
        "tokens": [str(tokenizer.decode([token])) for token in rollout.trained_ids.tolist()],
        "process_rewards": [round(float(value), 6) for value in values],
        "behaviour_logprobs": [round(float(value), 6) for value in rollout.behaviour_logprobs],
    }
