"""What must hold of a run whatever was done to it. Each check returns one line per violation."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import version_name
from oprime.lm.checkpoints import checkpoint_root, step_directory
from oprime.ports import LIVE
from oprime_cli.run_config import RunConfig
from oprime_cli.running.audit import Audit, audit

Row = Mapping[str, Any]

WEIGHTS = ("weights", "prm_weights")
"""Folders of a run with the published versions of policy and PRM."""
PARTS = ("policy", "prm")
"""Parts of a checkpoint with weights and optimizer state."""
OF_A_STEP = ("prompts", "acceptance_rate", "trained_tokens", "prm_loss", "policy_loss")
"""Metrics that have one right value at each step of a synchronous run."""
IN_ALL = ("rollouts", "tokens")
"""Totals that have one right value at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What a finished run's queue says."""

    audit: Audit
    ledger: dict[str, str]
    """Rollout id -> state."""
    dead_letters: list[str]


async def read_accounts(config: RunConfig) -> Accounts:
    """Ask the queue that `config.queue.url` names."""
    found = await audit(config)
    queue = RedisQueue.of_run(config.queue, config.run.name)
    try:
        ledger = {rollout: state async for rollout, state in queue.ledger_entries()}
        letters = [f"{letter.stream} {letter.key}: {letter.reason}" for letter in await queue.dead_letters()]
    finally:
        await queue.close()
    return Accounts(audit=found, ledger=ledger, dead_letters=letters)


def step_rows(run: Path) -> list[Row]:
    """Rows of train steps in metrics.jsonl, as they stand there."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == "step"]


def step_violations(rows: Sequence[Row], *, steps: int, max_staleness: int) -> list[str]:
    """Every step is there once, in order, and trained on nothing too old."""
    seen = [row["step"] for row in rows]
    wrong = [] if seen == list(range(1, steps + 1)) else [f"metrics.jsonl has the steps {seen} instead of 1 to {steps}, each once"]
    stale = [f"step {row['step']} trained at staleness {row['staleness_max']}" for row in rows if row["staleness_max"] > max_staleness]
    return wrong + stale


def ledger_violations(accounts: Accounts, *, steps: int, groups: int, group_size: int) -> list[str]:
    """The ledger is closed with nothing live or dead, and every step trained on full groups, as many as a batch has.

    Of a group that was trained twice, the ledger knows the first time only: the second step then lacks it.
    """
    wrong = [] if accounts.audit.closed else [f"the ledger is not closed: {accounts.audit}"]
    live = accounts.audit.counts.get(LIVE, 0)
    wrong += [f"{live} rollouts are still live"] if live else []
    wrong += [f"dead letter: {letter}" for letter in accounts.dead_letters]
    trained: dict[int, Counter[int]] = {step: Counter() for step in range(1, steps + 1)}
    for rollout, state in accounts.ledger.items():
        kind, _, step = state.partition(":")
        if kind == "trained":
            trained.setdefault(int(step), Counter())[int(rollout.partition(":")[0])] += 1
    for step, rollouts in sorted(trained.items()):
        expected = groups if step <= steps else 0
        if len(rollouts) != expected:
            wrong.append(f"step {step} trained on {len(rollouts)} groups instead of {expected}: {sorted(rollouts)}")
        wrong += [f"step {step} trained on {n} of {group_size} rollouts of group {g}" for g, n in rollouts.items() if n != group_size]
    return wrong


def ledger_difference(twin: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Where a synchronous run's rollouts ended otherwise than its undisturbed twin's."""
    apart = [rollout for rollout in sorted({*twin, *ours}, key=_numbers) if twin.get(rollout) != ours.get(rollout)]
    if not apart:
        return []
    first = apart[0]
    return [f"{len(apart)} rollouts ended otherwise; the first is {first}: {ours.get(first)} instead of {twin.get(first)}"]


def _numbers(rollout: str) -> tuple[int, int]:
    group, _, index = rollout.partition(":")
    return int(group), int(index)


def total_differences(twin: Path, run: Path, *, steps: int) -> list[str]:
    """Where a synchronous run counted otherwise than its undisturbed twin: at the first step, and in all."""
    wrong = [
        f"step {ours['step']}: {name} is {ours[name]} instead of {theirs[name]}"
        for theirs, ours in zip(step_rows(twin), step_rows(run), strict=False)
        for name in OF_A_STEP
        if ours[name] != theirs[name]
    ][:1]
    kept = [json.loads((_checkpoint(folder, steps) / "coordinator" / "state.json").read_text(encoding="utf-8")) for folder in (twin, run)]
    return wrong + [f"{name} in all: {kept[1][name]} instead of {kept[0][name]}" for name in IN_ALL if kept[0][name] != kept[1][name]]


def weight_differences(twin: Path, run: Path, *, steps: int) -> list[str]:
    """The first version of policy and of PRM that differs from the undisturbed twin's, and whether the last optimizer states do."""
    wrong: list[str] = []
    for folder in WEIGHTS:
        versions = [Path(folder) / version_name(version) for version in published(twin / folder)]
        apart = [(version, tensor_difference(twin / version, run / version, "*.safetensors")) for version in versions]
        wrong += [f"{version}: {found}" for version, found in apart if found][:1]
    for part in PARTS:
        found = tensor_difference(_checkpoint(twin, steps) / part, _checkpoint(run, steps) / part, "state-*.safetensors")
        wrong += [f"checkpoint of {part}: {found}"] if found else []
    return wrong


def _checkpoint(run: Path, step: int) -> Path:
    return step_directory(checkpoint_root(run), step)


def published(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("v")) for path in folder.glob("v*"))


def tensor_difference(one: Path, other: Path, pattern: str) -> str | None:
    """The first thing in which the safetensors files of two folders differ; None if all are equal bit for bit."""
    files = [sorted(path.name for path in folder.glob(pattern)) for folder in (one, other)]
    if files[0] != files[1] or not files[0]:
        return f"has the files {files[1]} instead of {files[0]}"
    for name in files[0]:
        left, right = load_file(one / name), load_file(other / name)
        if left.keys() != right.keys():
            return f"{name} has other tensors: {sorted(left.keys() ^ right.keys())}"
        apart = [key for key, tensor in left.items() if not same_bits(tensor, right[key])]
        if apart:
            return f"{len(apart)} of {len(left)} tensors in {name} differ, {apart[0]} among them"
    return None


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit: also NaN equals itself, and 0 does not equal -0."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
