"""RUN/samples/step-000010.jsonl: some groups of a batch with every token's process reward, for people to look at."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from oprime.core.types import Rollout, ScoredBatch, TokenFloats, VerifiedRollout
from oprime.ports import Payloads
from oprime.runtime.rollout_payloads import read_reference, read_rewards, read_rollouts
from oprime.tasks.actions import trace_actions


def write_samples(
    folder: Path,
    payloads: Payloads,
    scored: ScoredBatch,
    tokenizer: PreTrainedTokenizerBase,
    references: Mapping[str, str] | None = None,
    *,
    groups: int,
) -> None:
    """Write the first `groups` groups of a batch, whole or not at all.

    `references` are names of the reference's log-probs, by the name of the rollout's own payload; None where the PRM has no reference of
    its own.
    """
    chosen = scored.batch.groups[:groups]
    if not chosen:
        return
    count = sum(len(group.rollouts) for group in chosen)
    rewards = iter(read_rewards(payloads, scored.process_rewards, scored.batch).rollouts[:count])
    lines: list[str] = []
    for group in chosen:
        records = [verified.rollout for verified in group.rollouts]
        rollouts = read_rollouts(payloads, records)
        known = read_reference(payloads, [references[record.payload] for record in records]) if references else [None] * len(records)
        row = {
            "step": scored.batch.step,
            "group_id": group.group_id,
            "prompt": tokenizer.decode(rollouts[0].prompt_ids.tolist()),
            "prm_version": scored.prm_version,
            "rollouts": [
                _row(tokenizer, verified, rollout, next(rewards)) | _reference_column(reference)
                for verified, rollout, reference in zip(group.rollouts, rollouts, known, strict=True)
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
    response = str(tokenizer.decode(rollout.trained_ids.tolist(), skip_special_tokens=True))
    acted = trace_actions(response)
    form = {"actions": list(acted.actions), "keeps_action_form": acted.keeps_form} if acted.actions else {}
    return {
        "index": rollout.index,
        "outcome_reward": verified.outcome_reward,
        "outcome_status": verified.outcome.status.value,
        "finish_reason": rollout.finish_reason.value,
        "response": response,
        "tokens": [str(tokenizer.decode([token])) for token in rollout.trained_ids.tolist()],
        "process_rewards": _rounded(values),
        "behaviour_logprobs": _rounded(rollout.behaviour_logprobs),
        "weight_versions": [segment.weight_version for segment in rollout.segments if segment.trained for _ in segment.token_ids],
        **form,
    }


def _reference_column(reference: TokenFloats | None) -> dict[str, object]:
    return {} if reference is None else {"reference_logprobs": _rounded(reference)}


def _rounded(values: TokenFloats) -> list[float]:
    return [round(float(value), 6) for value in values]
