"""Sampled rollouts of a step, for trackers: RUN/samples/step-000010.jsonl (written by the PRM) as rows of a table."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from oprime.ports import TableRow

log = structlog.get_logger()


def sampled_rollouts(folder: Path, step: int, most: int) -> list[TableRow]:
    """The first `most` rollouts that were kept of a step; none where none were. A file that cannot be read is said and passed over."""
    path = folder / "samples" / f"step-{step:06d}.jsonl"
    if most == 0 or not path.is_file():
        return []
    try:
        return list(islice(_rows(path), most))
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("samples_unreadable", file=str(path), error=f"{type(error).__name__}: {error}")
        return []


def _rows(path: Path) -> Iterator[TableRow]:
    for line in path.read_text(encoding="utf-8").splitlines():
        group = json.loads(line)
        yield from (_row(group, rollout) for rollout in group["rollouts"])


def _row(group: dict[str, Any], rollout: dict[str, Any]) -> TableRow:
    return {
        "group": group["group_id"],
        "prompt": group["prompt"],
        "response": rollout["response"],
        "outcome reward": rollout["outcome_reward"],
        "process return": round(sum(rollout["process_rewards"]), 6),
        "tokens": len(rollout["process_rewards"]),
        "finish reason": rollout["finish_reason"],
    }
