"""Builds the folder of a chain run as its services would have left it, with curves like those of a real run."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIG = """\
[run]
name = "synthetic"
steps = {steps}
[model]
path = "model"
[tasks]
source = "{source}"
[coordinator]
groups_per_batch = 32
[staleness]
max_staleness = 1
[prm]
beta = 0.5
"""

SECONDS = {"sft": 34.0, "start": 41.0, "train": 131.0, "evaluate": 6.0, "report": 3.5, "total": 215.5}
LEDGER = {
    "issued": 17_400,
    "trained": 7_680,
    "filtered:too_easy": 5_900,
    "filtered:too_hard": 3_760,
    "dropped:stale": 60,
    "dead:rollouts": 0,
    "live": 0,
}


def build_run(folder: Path, *, steps: int = 60, finished: bool = True, source: str = "chain") -> Path:
    """A whole run of `steps` train steps; one that is still under way has no summary and no localisation."""
    generator = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(CONFIG.format(steps=60, source=source), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", metric_rows(steps, generator))
    for step in range(1, steps + 1):
        write_lines(folder / "samples" / f"step-{step:06d}.jsonl", [sampled_group(step, generator)])
    if finished:
        write_object(folder / "summary.json", {"result": "ok", "seconds": SECONDS, "ledger_states": LEDGER, "ledger_closed": True})
        write_object(folder / "localisation.json", LOCALISATION)
    return folder


LOCALISATION = {
    "wrong": 512,
    "right": 512,
    "prm_version": 60,
    "errors": {
        "natural": {
            "prm_log_ratio": {"auc": 0.994, "top1": 0.96, "f1": 0.95},
            "reference_logprob": {"auc": 0.925, "top1": 0.46, "f1": 0.55},
        },
        "confuser": {
            "prm_log_ratio": {"auc": 0.987, "top1": 0.97, "f1": 0.93},
            "reference_logprob": {"auc": 0.774, "top1": 0.17, "f1": 0.2},
        },
    },
}


def metric_rows(steps: int, generator: random.Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [evaluation_row(0, 0.0)]
    for step in range(1, steps + 1):
        rows.append(step_row(step, generator))
        if step % 10 == 0:
            rows.append(evaluation_row(step, 2.2 * step))
    return rows


def learned(step: int) -> float:
    """Share of what there is to learn that is learned by a step."""
    return 1 - math.exp(-((step / 26) ** 1.5))


def evaluation_row(step: int, elapsed_s: float) -> dict[str, Any]:
    return {
        "kind": "evaluation",
        "step": step,
        "elapsed_s": elapsed_s,
        "heldout_accuracy": 0.25 + 0.65 * learned(step),
        "heldout_greedy_accuracy": 0.19 + 0.81 * min(1.0, 1.35 * learned(step)),
        "problems": 256,
        "seconds": 0.9,
    }


def step_row(step: int, generator: random.Random) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": step,
        "elapsed_s": 2.2 * step,
        "outcome_reward_mean": 0.25 + 0.63 * learned(step) + generator.uniform(-0.05, 0.05),
        "prm_accuracy": 0.55 + 0.36 * learned(2 * step) + generator.uniform(-0.03, 0.03),
        "prm_pairwise_accuracy": 0.6 + 0.37 * learned(2 * step) + generator.uniform(-0.02, 0.02),
        "staleness_max": min(1, step - 1),
        "staleness_mean": min(1, step - 1) * generator.uniform(0.3, 0.9),
        "tokens_per_second": 1900 + generator.uniform(-250, 250),
        "seconds_prm": 0.7 + generator.uniform(0, 0.1),
        "seconds_learner": 0.4 + generator.uniform(0, 0.06),
        "wait_s_prm": 0.5 + generator.uniform(0, 0.3),
        "wait_s_learner": 0.9 + generator.uniform(0, 0.3),
    }


def sampled_group(step: int, generator: random.Random) -> dict[str, Any]:
    """Four rollouts of one chain problem; the second and the third make one wrong step each."""
    values = [generator.randrange(10)]
    operands = [generator.randrange(-9, 10) for _ in range(8)]
    for operand in operands:
        values.append((values[-1] + operand) % 10)
    return {
        "step": step,
        "group_id": 40 * step,
        "prompt": " ".join([str(values[0]), *(f"{operand:+d}" for operand in operands), "?"]),
        "prm_version": step,
        "rollouts": [chain_rollout(index, values, wrong, learned(2 * step), generator) for index, wrong in enumerate((None, 3, 6, None))],
    }


def chain_rollout(index: int, values: Sequence[int], wrong: int | None, learnt: float, generator: random.Random) -> dict[str, Any]:
    """A right chain, or one that slips by one at step `wrong` (from 1) and goes on from its own value."""
    slips = [int(wrong is not None and place >= wrong) for place in range(1, len(values))]
    shown = [(value + slip) % 10 for value, slip in zip(values[1:], slips, strict=True)]
    tokens = [*(f"={value}" for value in shown), f"#{shown[-1]}", "<eos>"]
    rewards = [learnt * generator.uniform(-0.02, 0.12) for _ in tokens]
    if wrong is not None:
        rewards[wrong - 1] = -learnt * generator.uniform(0.8, 1.4)
    return rollout_row(index, tokens, rewards, outcome_reward=float(wrong is None))


def rollout_row(index: int, tokens: Sequence[str], rewards: Sequence[float], *, outcome_reward: float) -> dict[str, Any]:
    return {
        "index": index,
        "outcome_reward": outcome_reward,
        "outcome_status": "scored",
        "finish_reason": "stop",
        "tokens": list(tokens),
        "process_rewards": list(rewards),
        "behaviour_logprobs": [-0.05] * len(tokens),
    }


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_object(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
