"""What belongs to a train step: what was verified for its batch, and the pace of the run by then. Pure."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from oprime.core.response_lengths import DROPPED, FILTERED, STALE, TRAINED, fate_and_bucket, metric_name
from oprime.core.types import DroppedRollout, VerifiedGroup, VerifiedRollout
from oprime.core.verification import OutcomeStatus
from oprime.ports import Metrics
from oprime.runtime.step_gauges import OF_RUN, show_step

STALE_STATE = "dropped:stale"
"""Ledger state of what became too old to be trained on."""
STATISTICS = "statistics/"
"""Names of the values that keep the sums of cut batches, accepted groups and what was refused since, begin so."""
RECENT_DECISIONS = 256
RATES_OVER_S = 5.0
"""Rates are taken over at least this long."""


_REFUSED = "refused"
_READY = "ready/"
_REFUSED_VALUE = f"{STATISTICS}{_REFUSED}"


def statistics_value(step: int) -> str:
    return f"{STATISTICS}{step:08d}"


def _ready_value(group_id: int) -> str:
    return f"{STATISTICS}{_READY}{group_id}"


@dataclass(slots=True)
class Tally:
    """Sums over decided groups. Means are of what was sampled; the greedy baselines have sums of their own."""

    rewards: float = 0.0
    rollouts: int = 0
    tokens: int = 0
    invalid: int = 0
    actions: int = 0
    """Named actions that responses took."""
    keeping_form: int = 0
    """Responses that keep the form of the actions."""
    baseline_rewards: float = 0.0
    baselines: int = 0
    groups: Counter[str] = field(default_factory=Counter[str])
    """Groups by what was decided: `accepted`, `filtered:...`, `dropped:...`."""
    fates: Counter[str] = field(default_factory=Counter[str])
    """Rollouts by what became of them."""
    fate_tokens: Counter[str] = field(default_factory=Counter[str])
    """Response tokens of those rollouts whose length is known."""
    lengths: Counter[str] = field(default_factory=Counter[str])
    """Rollouts of known length, by the name of their metric in `response_lengths`."""

    @classmethod
    def of(cls, group: VerifiedGroup, refused: str | None) -> Self:
        """`refused` is the ledger state of a group that is not trained on."""
        rollouts = group.rollouts
        tally = cls(
            rewards=sum(group.outcome_rewards),
            rollouts=len(rollouts),
            tokens=sum(verified.rollout.trained_tokens for verified in rollouts),
            invalid=sum(verified.outcome.status is OutcomeStatus.INVALID for verified in rollouts),
            actions=sum(verified.actions for verified in rollouts),
            keeping_form=sum(verified.keeps_action_form for verified in rollouts),
            groups=Counter([refused or "accepted"]),
        )
        if group.baseline is not None:
            tally.baseline_rewards = group.baseline.outcome_reward
            tally.baselines = 1
        for verified in rollouts:
            tally.count_fate(_fate(refused), verified.rollout.trained_tokens)
        return tally

    def count_fate(self, fate: str, tokens: int) -> None:
        """One rollout more; 0 tokens when nobody knows."""
        self.fates[fate] += 1
        if tokens:
            self.fate_tokens[fate] += tokens
            self.lengths[metric_name(fate, tokens)] += 1

    def add(self, other: "Tally") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_bytes(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        tally = cls()
        for name, value in json.loads(data).items():
            setattr(tally, name, type(getattr(tally, name))(value))
        return tally

    def row(self) -> dict[str, float]:
        """Metrics of a step. A mean over nothing is left out."""
        known = {fate: sum(count for name, count in self.lengths.items() if _fate_of(name) == fate) for fate in (TRAINED, STALE)}
        return {
            **_mean("outcome_reward_mean", self.rewards, self.rollouts),
            **_mean("response_tokens_mean", self.tokens, self.rollouts),
            **_mean("invalid_share", self.invalid, self.rollouts),
            **self._form(),
            **_mean("baseline_outcome_reward_mean", self.baseline_rewards, self.baselines),
            **_mean("acceptance_rate", self.groups["accepted"], self.groups.total()),
            **_mean("trained_tokens_mean", self.fate_tokens[TRAINED], known[TRAINED]),
            **_mean("stale_tokens_mean", self.fate_tokens[STALE], known[STALE]),
            "stale_rollouts": float(self.fates[STALE]),
            **{f"groups_{name.replace(':', '_')}": float(count) for name, count in sorted(self.groups.items())},
            **{name: float(count) for name, count in sorted(self.lengths.items())},
        }

    def _form(self) -> dict[str, float]:
        """Nothing where no response took an action: then nobody asked for any."""
        if not self.actions:
            return {}
        return {"actions_mean": self.actions / self.rollouts, "action_form_share": self.keeping_form / self.rollouts}


@dataclass(frozen=True, slots=True)
class Mark:
    """What had arrived by a moment."""

    at_s: float
    tokens: int
    rollouts: int


class StepStatistics:
    """Gives each train step the groups of its batch, and those that were refused since the group before was accepted.

    So every decided group belongs to exactly one step, also where several batches are cut, or several steps committed, at once.
    """

    def __init__(self) -> None:
        self._last_row_s: float | None = None
        """When the row before was made, or training began; None before that."""
        self._tokens = 0
        self._rollouts = 0
        self._marks: deque[Mark] = deque()
        """At the beginning and at each row, as far back as rates look."""
        self._refused = Tally()
        """What was refused or lost since a group was last accepted."""
        self._ready: dict[int, Tally] = {}
        """By accepted group that no batch has yet: what was refused before it."""
        self._groups: dict[int, VerifiedGroup] = {}
        """Those groups themselves."""
        self._accepted_earlier: dict[int, Tally] = {}
        """As `_ready`, of groups that an earlier coordinator accepted and this one has not read again."""
        self._cut: dict[int, Tally] = {}
        """By step that is not committed yet."""
        self._cut_earlier: set[int] = set()
        """Steps that an earlier coordinator cut: it alone knew since when they were under way."""
        self._decisions: deque[bool] = deque(maxlen=RECENT_DECISIONS)

    @property
    def acceptance_rate(self) -> float:
        """Share of the last groups that passed the filter; NaN before the first."""
        return sum(self._decisions) / len(self._decisions) if self._decisions else float("nan")

    def begin(self, now_s: float) -> None:
        """Training begins or goes on: the time before belongs to no step."""
        self._last_row_s = now_s
        self._marks = deque([Mark(now_s, self._tokens, self._rollouts)])

    def restore(self, values: Mapping[str, bytes]) -> None:
        """Take over what an earlier coordinator knew: the queue's values under `STATISTICS`."""
        for name, data in values.items():
            place, tally = name.removeprefix(STATISTICS), Tally.from_bytes(data)
            if place == _REFUSED:
                self._refused = tally
            elif place.startswith(_READY):
                self._accepted_earlier[int(place.removeprefix(_READY))] = tally
            else:
                self._cut[int(place)] = tally
        self._cut_earlier |= self._cut.keys()

    def values_of(self, group: VerifiedGroup, refused: str | None) -> dict[str, bytes | None]:
        """What the queue keeps of a decision, in the commit that makes it: so that none is forgotten or counted twice."""
        before = self._before(group.group_id)
        if refused is None:
            kept = self._refused if before is None else before
            return {_ready_value(group.group_id): kept.to_bytes(), _REFUSED_VALUE: None}
        total = Tally()
        for tally in (self._refused, before or Tally(), Tally.of(group, refused)):
            total.add(tally)
        return {_ready_value(group.group_id): None, _REFUSED_VALUE: total.to_bytes()}

    def values_of_cut(self, step: int, group_ids: Sequence[int]) -> dict[str, bytes | None]:
        """What the queue keeps of a batch until its step is committed."""
        return {statistics_value(step): self.batch(group_ids).to_bytes()} | {_ready_value(group_id): None for group_id in group_ids}

    def _before(self, group_id: int) -> "Tally | None":
        return self._ready.get(group_id) or self._accepted_earlier.get(group_id)

    def arrived(self, event: VerifiedRollout | DroppedRollout) -> None:
        """A rollout was verified, or will never be. Of the latter only those that became stale count: the others have no length."""
        if isinstance(event, VerifiedRollout):
            self._tokens += event.rollout.trained_tokens
            self._rollouts += 1
        elif f"dropped:{event.reason}" == STALE_STATE:
            self._refused.count_fate(STALE, event.response_tokens)

    def decided(self, group: VerifiedGroup, refused: str | None) -> None:
        """A group was accepted (None), or refused with this ledger state; a group that was accepted before may still be refused."""
        before = self._before(group.group_id)
        for known in (self._ready, self._groups, self._accepted_earlier):
            known.pop(group.group_id, None)
        if before is None:
            self._decisions.append(refused is None)
        if refused is not None:
            self._refused.add(before or Tally())
            self._refused.add(Tally.of(group, refused))
            return
        if before is None:
            before, self._refused = self._refused, Tally()
        self._ready[group.group_id], self._groups[group.group_id] = before, group

    def batch(self, group_ids: Iterable[int]) -> Tally:
        """What belongs to a batch of these groups, before it is cut. Groups of which nothing is known are passed over."""
        total = Tally()
        for group_id in group_ids:
            if group_id in self._ready:
                total.add(self._ready[group_id])
                total.add(Tally.of(self._groups[group_id], None))
        return total

    def cut(self, step: int, group_ids: Iterable[int]) -> None:
        """The batch of `step` was cut from these groups."""
        chosen = list(group_ids)
        self._cut[step] = self.batch(chosen)
        for group_id in chosen:
            self._ready.pop(group_id, None)
            self._groups.pop(group_id, None)

    def committed(self, step: int, now_s: float, *, together: int = 1) -> dict[str, float]:
        """The metrics of a committed step. What is not known is left out.

        `together` step rows are due at this moment, this one included: they share the time since the row before.
        """
        pace: dict[str, float] = {}
        if self._last_row_s is not None:
            seconds = (now_s - self._last_row_s) / together
            self._last_row_s = now_s if together == 1 else self._last_row_s + seconds
            pace = {"seconds": seconds} | self._rates(now_s)
        tally = self._cut.pop(step, None)
        return (tally.row() if tally else {}) | ({} if step in self._cut_earlier else pace)

    def _rates(self, now_s: float) -> dict[str, float]:
        """Since the newest row that is at least `RATES_OVER_S` old, or else since training began: steps may follow each other faster
        than rollouts do.
        """
        while len(self._marks) > 1 and now_s - self._marks[1].at_s >= RATES_OVER_S:
            self._marks.popleft()
        since = self._marks[0]
        self._marks.append(Mark(now_s, self._tokens, self._rollouts))
        seconds = now_s - since.at_s
        if seconds <= 0:
            return {}
        return {
            "tokens_per_second": (self._tokens - since.tokens) / seconds,
            "rollouts_per_second": (self._rollouts - since.rollouts) / seconds,
        }


def _fate(refused: str | None) -> str:
    if refused is None:
        return TRAINED
    return STALE if refused == STALE_STATE else FILTERED if refused.startswith("filtered:") else DROPPED


def _fate_of(metric: str) -> str:
    known = fate_and_bucket(metric)
    return known[0] if known else ""


def _mean(name: str, total: float, count: int) -> dict[str, float]:
    return {name: total / count} if count else {}


def export_step(metrics: Metrics, step: int, values: Mapping[str, float]) -> None:
    """Show what the coordinator knows of a committed step to Prometheus; PRM and learner show their own numbers."""
    metrics.count("train_steps_total")
    metrics.gauge("committed_step", step)
    show_step(metrics, OF_RUN, values)
    for name, value in values.items():
        known = fate_and_bucket(name)
        if known is not None:
            metrics.count("decided_rollouts_total", value, fate=known[0], up_to_tokens=str(known[1]))
