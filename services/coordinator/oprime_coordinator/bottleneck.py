"""Who waits for whom, from what services report and from the depths of the queues. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from oprime.ports import BATCHES, ROLLOUTS, SCORED, TICKETS, QueueDepth

STAGES = ("generator", "verifier", "prm", "learner")
"""In the order in which a prompt travels."""
AT_WORK = 0.02
"""A stage that is at work a smaller share of time is nobody's bottleneck."""

_CALLED = {"generator": "ticket", "verifier": "rollout", "prm": "batch", "learner": "batch"}

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What a replica said last, and how long ago."""

    report: Report
    age_s: float


class Reports:
    """The replicas' reports, aged by the coordinator's own clock: the clocks of other machines may differ."""

    def __init__(self, *, silent_s: float) -> None:
        self._silent_s = silent_s
        self._seen: dict[str, tuple[Report, float]] = {}
        """By replica: its last report, and when it was new."""
        self._looked_s: float | None = None

    def look(self, now_s: float, values: Mapping[str, Report]) -> None:
        """Take over the reports that are in the queue now."""
        # While nobody could look (the queue was away), nobody fell silent.
        unseen = 0.0 if self._looked_s is None else max(0.0, now_s - self._looked_s - self._silent_s / 2)
        self._looked_s = now_s
        self._seen = {name: (report, since + unseen) for name, (report, since) in self._seen.items()}
        for name, report in values.items():
            if name not in self._seen or self._seen[name][0] != report:
                self._seen[name] = (report, now_s)
        # A replica whose report is gone is remembered as long as no other takes its place.
        alive = {stage_of(name) for name in self.reporting if name in values}
        self._seen = {name: seen for name, seen in self._seen.items() if name in values or stage_of(name) not in alive}

    @property
    def replicas(self) -> dict[str, Replica]:
        looked_s = self._looked_s or 0.0
        return {name: Replica(report=report, age_s=looked_s - since) for name, (report, since) in sorted(self._seen.items())}

    @property
    def reporting(self) -> dict[str, Report]:
        """The newest reports of replicas that are not silent."""
        return {name: one.report for name, one in self.replicas.items() if one.age_s <= self._silent_s}


class StepBusy:
    """Shares of time at work, as means over train steps: what a stage does in one moment of a step says little about who waits for it."""

    def __init__(self) -> None:
        self._base: dict[str, Report] = {}
        """Reports at the last step row."""
        self._before: dict[str, Report] = {}
        """Reports at the row before that."""
        self._shares: dict[str, float] = {}

    def look(self, reports: Mapping[str, Report]) -> None:
        """A replica that is new counts from its first report."""
        self._base = {**reports, **self._base}

    def row(self, reports: Mapping[str, Report]) -> dict[str, float]:
        """Since the last row; where no report came meanwhile (steps are faster than reports), the shares are those of the row before."""
        fresh = busy_shares(self._base, reports)
        stages = {stage_of(name) for name in reports}
        self._shares = {stage: share for stage, share in self._shares.items() if stage in stages} | fresh
        self._before, self._base = self._base, dict(reports)
        return dict(self._shares)

    def lately(self, reports: Mapping[str, Report]) -> dict[str, float]:
        """Over the last whole step and what there is of the next; before the first row, since the first reports."""
        return busy_shares({**self._base, **self._before}, reports)


def stage_of(replica: str) -> str:
    return replica.partition("/")[0]


def busy_shares(before: Mapping[str, Report], after: Mapping[str, Report]) -> dict[str, float]:
    """Per stage, the mean share of time at work of its replicas between two reports; stages without two reports are left out."""
    shares: dict[str, list[float]] = {}
    for replica, report in after.items():
        stage = stage_of(replica)
        if replica not in before or stage not in STAGES:
            continue
        busy, idle = (_grown(before[replica], report, name) for name in ("busy_seconds", "idle_seconds"))
        if busy + idle > 0:
            shares.setdefault(stage, []).append(busy / (busy + idle))
    return {stage: sum(values) / len(values) for stage, values in shares.items()}


def _grown(before: Report, after: Report, name: str) -> float:
    """A counter that fell began anew with its process."""
    return after[name] - before[name] if after[name] >= before[name] else after[name]


def taken(*, has_prm: bool) -> dict[str, str]:
    """The stream that each stage of a run takes from, in the order in which a prompt travels."""
    trainers = {"prm": BATCHES, "learner": SCORED} if has_prm else {"learner": BATCHES}
    return {"generator": TICKETS, "verifier": ROLLOUTS, **trainers}


def work_of(depths: Iterable[QueueDepth], *, uncommitted: int, has_prm: bool = True) -> dict[str, int]:
    """Entries that each stage has not finished, as far as is known; `uncommitted` batches were cut and not committed yet.

    PRM and learner hold what they finished until a checkpoint, so what is on loan to them says nothing.
    """
    by_stream = {depth.stream: depth for depth in depths}
    work: dict[str, int] = {}
    for stage, stream in taken(has_prm=has_prm).items():
        depth = by_stream.get(stream)
        waiting, pending = (depth.waiting, depth.pending) if depth else (0, 0)
        work[stage] = waiting + pending if stage in ("generator", "verifier") else max(waiting, uncommitted)
    return work


def entries(stage: str, count: int) -> str:
    """`3 tickets`, `1 batch`: what a stage works on."""
    word = _CALLED[stage]
    return f"{count} {word}" if count == 1 else f"{count} {word}{'es' if word == 'batch' else 's'}"


def silence(stage: str, replicas: Mapping[str, Replica], *, silent_s: float) -> str:
    """How long a stage has given no report: empty if one of its replicas gave one in time."""
    ages = [one.age_s for name, one in replicas.items() if stage_of(name) == stage]
    if not ages:
        return "no report yet"
    return f"no report for {min(ages):.0f} s" if min(ages) > silent_s else ""


def bottleneck(replicas: Mapping[str, Replica], work: Mapping[str, int], shares: Mapping[str, float], *, silent_s: float) -> str:
    """Whom the others wait for; empty when nobody waits.

    Silent stages with work first, each with its reason; else the stage that is at work the largest share of time; else the
    last stage that lets its work lie.
    """
    silent = {stage: text for stage in STAGES if work.get(stage) and (text := silence(stage, replicas, silent_s=silent_s))}
    if silent:
        return "; ".join(f"{stage}: {text}, {entries(stage, work[stage])} waiting" for stage, text in silent.items())
    busiest = max(shares, key=lambda stage: shares[stage], default="")
    if busiest and shares[busiest] >= AT_WORK:
        return busiest
    return next((f"{stage}: idle, {entries(stage, work[stage])} waiting" for stage in reversed(STAGES) if work.get(stage)), "")


def waited_for(said: str) -> set[str]:
    """The stages that a `bottleneck` names."""
    return {part.partition(":")[0] for part in said.split("; ")}
