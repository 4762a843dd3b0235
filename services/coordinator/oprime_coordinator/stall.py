"""A run that stands still says who waits for what. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from oprime_coordinator.bottleneck import STAGES, Replica, entries, silence, stage_of

EXPLAINS_ITSELF = ("outage", "follow_error")
"""What a replica may say of itself in its report: why it cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the coordinator knows when nothing moves."""

    limit_s: float
    """coordinator.stall_s."""
    silent_s: float
    """A replica without a report for longer is taken for gone."""
    queue_error: str = ""
    """Why the queue does not do what it is asked."""
    evaluation: str = ""
    """What an evaluation waits for."""
    replicas: Mapping[str, Replica] = field(default_factory=dict[str, Replica])
    work: Mapping[str, int] = field(default_factory=dict[str, int])
    """Entries that each stage has not finished."""
    open_groups: int = 0
    """Groups whose rollouts are not all there."""
    ready_groups: int = 0
    groups_per_batch: int = 1


class StallWatch:
    """Since when nothing has moved, and when to say so again."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._position: object = None
        self._moved_s: float | None = None
        self._said_s: float | None = None

    def quiet_s(self, now_s: float, position: object) -> float:
        """Seconds since `position` last changed."""
        if self._moved_s is None or position != self._position:
            self._position, self._moved_s, self._said_s = position, now_s, None
        return now_s - self._moved_s

    def is_due(self, now_s: float) -> bool:
        """Whether a standstill is to be reported now: once in every `limit_s`."""
        if self._said_s is not None and now_s - self._said_s < self._limit_s:
            return False
        self._said_s = now_s
        return True


def stalled(quiet_s: float, situation: Situation) -> str:
    """Why nothing has moved for `quiet_s` seconds: one sentence; empty before `limit_s`."""
    if quiet_s < situation.limit_s:
        return ""
    reasons = [situation.queue_error] if situation.queue_error else _reasons(situation)
    return f"nothing has moved for {quiet_s:.0f} s (coordinator.stall_s = {situation.limit_s:g}): {'; '.join(reasons)}"


def _reasons(situation: Situation) -> list[str]:
    reasons = [situation.evaluation] if situation.evaluation else []
    for stage in STAGES:
        reasons += _reasons_of_stage(stage, situation)
    if situation.open_groups:
        reasons.append(f"{_groups(situation.open_groups)} for the rest of {_their(situation.open_groups)} rollouts")
    if situation.ready_groups:
        reasons.append(f"{situation.ready_groups} of the {situation.groups_per_batch} groups of the next batch are ready")
    return reasons or ["no group is under way and no batch is with a trainer: the coordinator's log says more"]


def _reasons_of_stage(stage: str, situation: Situation) -> list[str]:
    replicas = {name: one for name, one in situation.replicas.items() if stage_of(name) == stage}
    reasons = [
        f"{name}: {one.report[key]}"
        for name, one in replicas.items()
        for key in EXPLAINS_ITSELF
        if one.report.get(key) and one.age_s <= situation.silent_s
    ]
    count = situation.work.get(stage, 0)
    if not count:
        return reasons
    silent = silence(stage, replicas, silent_s=situation.silent_s)
    gone = [name for name, one in replicas.items() if one.age_s > situation.silent_s]
    verb = "is" if count == 1 else "are"
    if silent:
        who = ", ".join(gone) or f"the {stage}"
        reasons.append(f"{entries(stage, count)} {verb} with {who}: {silent}")
    else:
        reasons.append(f"{entries(stage, count)} {verb} with the {stage}, which {_activity(stage, situation)}")
        reasons += [f"{name}: no report for {replicas[name].age_s:.0f} s" for name in gone]
    return reasons


def _activity(stage: str, situation: Situation) -> str:
    reports = [one.report for name, one in situation.replicas.items() if stage_of(name) == stage and one.age_s <= situation.silent_s]
    running, held = (sum(int(report.get(name, 0)) for report in reports) for name in ("running_rollouts", "held_rollouts"))
    parts = [f"{running} rollouts under way"] if running else []
    parts += [f"{held} rollouts held back"] if held else []
    return "reports" + (f" ({', '.join(parts)})" if parts else "")


def _groups(count: int) -> str:
    return "1 group waits" if count == 1 else f"{count} groups wait"


def _their(count: int) -> str:
    return "its" if count == 1 else "their"
