"""What may change in a run's settings while it is stopped, and what did. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

LEARNING_RATE = ("learning_rate", "schedule", "warmup_steps", "min_learning_rate_ratio")
"""Looked up anew for every step. AdamW's other numbers are in its state."""
COST = ("micro_batch_rollouts", "micro_batch_tokens", "packing", "zero_stage", "offload_optimizer")
"""Memory and speed, not the result. A checkpoint fits any number of ranks and any ZeRO stage."""
PROCESSES = ("logprob_chunk_tokens", "ranks", "device", "threads")
SFT = (
    "micro_batch_rows",
    "save_every",
    "evaluate_every",
    "heldout",
    "heldout_rows",
    *(name for name in COST if name != "micro_batch_rollouts"),
    *PROCESSES,
)
"""What an unfinished warm-up may have otherwise when it goes on."""

MAY_CHANGE = (
    # How long the run goes on, and what is kept and measured on the way.
    *(
        f"run.{name}"
        for name in ("steps", "evaluate_every", "checkpoint_every", "keep_checkpoints", "heartbeat_s", "log_level", "when_finished")
    ),
    *(f"run.evaluate_on{name}" for name in ("", "_every", "_samples", "_data")),
    # Where services, Redis and the people who watch find each other.
    *("endpoints.*", "queue.*", "gateway.*", "scoring.*", "kubernetes.*", "tracking.*"),
    *(
        "store.keep_versions",
        "store.full_every",
        "store.transfer",
        "coordinator.max_live_groups",
        "coordinator.refused_batches_limit",
        "coordinator.stall_s",
    ),
    *("model.attention", "model.gradient_checkpointing"),
    *(f"generator.{name}" for name in ("max_running_groups", "max_running_rollouts", "follow_poll_s", "follow_at_once", "tensor_parallel")),
    *(f"generator.{name}" for name in ("gpu_memory_share", "cpu_cache_gib", "threads", "eager")),
    *(f"verifier.{name}" for name in ("workers", "deadline_s", "attempts", "memory_mib", "cache_entries", "sandbox.*")),
    *(f"{section}.{name}" for section in ("learner", "prm") for name in (*LEARNING_RATE, *COST, *PROCESSES)),
    *(f"critic.{name}" for name in (*LEARNING_RATE, *COST)),
    *("learner.sampled_groups", "prm.sampled_groups", "prm.max_score_items"),
    *(f"sft.{name}" for name in SFT),
    # Made before, by `oprime prm train`.
    "offline_prm.*",
)
"""Settings that a resumed run may have otherwise than before, `*` for any name. All others decide what the run computes."""

PLACE = "run.directory"
"""Follows from where the run's folder is."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting before and after; None where it was not set."""

    name: str
    before: Any
    after: Any

    @property
    def allowed(self) -> bool:
        return any(fnmatchcase(self.name, pattern) for pattern in MAY_CHANGE)

    def __str__(self) -> str:
        return f"{self.name} {_shown(self.before)} -> {_shown(self.after)}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every setting in which two documents differ, in order."""
    old, new = dict(_flat(before)), dict(_flat(after))
    names = [*new, *(name for name in old if name not in new)]
    return [Change(name, old.get(name), new.get(name)) for name in names if name != PLACE and old.get(name) != new.get(name)]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    if value is None:
        return "(not set)"
    return f"{value:g}" if isinstance(value, float) else str(value)
