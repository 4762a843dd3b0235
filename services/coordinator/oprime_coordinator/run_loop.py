"""The run: issues tickets, completes groups, cuts batches, and follows the learner's commits.

Everything that matters is in the queue. What happens here is decided once: a `Decision` is built, committed until the
queue answers, and only then applied to memory. So the loop can die anywhere, and an answer can be lost anywhere; the next
loop, or the same one, goes on from what the queue holds.

    takes       verdicts and committed steps, into an inbox that no failure empties
    decides     decide:G  an accepted group waits for its batch; a refused one ends
                sweep:G   a group that became too old ends
                cut:T     a batch leaves for the PRM
                seen:T    a committed step's rollouts have ended, and nothing can meet their marks again
                issue:G   new groups enter, as many as the staleness bound has places for
    waits for   open groups that would be too old for the batch after the next one: that batch waits for them
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from oprime.core.staleness import expected_step, min_weight_version, usable
from oprime.core.types import Batch, SamplingSettings, Task, Ticket, VerifiedGroup, VerifiedRollout, rollout_id, rollout_seed
from oprime.core.verification import VerificationRequest
from oprime.ports import (
    BATCHES,
    LIVE,
    ROLLOUTS,
    STEPS,
    TICKETS,
    VERDICTS,
    Clock,
    Committed,
    Delivery,
    Fence,
    LedgerMove,
    Metrics,
    Output,
    Payloads,
    Queue,
    Span,
)
from oprime.runtime.consume import BACKOFF_S, patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.entries import read_entry
from oprime.runtime.errors import OprimeError, QueueUnavailableError, UnusableInputError
from oprime.runtime.releases import drop_payloads
from oprime.runtime.rollout_payloads import material_of, material_owner
from oprime.runtime.tracing import span, traces_begun
from oprime.wire.codec import batch_to_proto, committed_step_from_proto, event_from_proto, ticket_to_proto
from oprime_coordinator.admission import groups_to_issue
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.groups import OpenGroup, ReadyGroup, refusal
from oprime_coordinator.restore import Restored
from oprime_coordinator.state import STATE, CoordinatorState, batch_value, row_value
from oprime_coordinator.step_statistics import STALE_STATE, StepStatistics, statistics_value
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

CONSUMER = "coordinator"
TAKE_VERDICTS = 1024
TAKE_WAIT_S = 0.05
GATHER_S = 0.01
"""Between turns while rollouts arrive: those that come meanwhile share the cost of a turn."""
LOOK_FOR_DEAD_S = 1.0
LOOK_FOR_VANISHED_S = 5.0
DROP_CHUNK = 1000
SKIPPED = "skipped"
"""Metric of a step that the trainers passed over, because its batch could not be read."""

OnStep = Callable[[int, dict[str, float]], None]


async def _nothing() -> None:
    pass


class RunLoop:
    """One run's decisions. Talks only to the queue, and writes payloads that it never reads."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        queue: Queue,
        payloads: Payloads,
        clock: Clock,
        metrics: Metrics,
        *,
        task_at: Callable[[int], Task | None],
        on_step: OnStep,
        before_step: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """`task_at` gives the task at a place in the prompt order, None to pass over it; `on_step` hears of committed steps, and
        `before_step` is called before it."""
        self._settings = settings
        self._queue = queue
        self._payloads = payloads
        self._clock = clock
        self._metrics = metrics
        self._task_at = task_at
        self._on_step = on_step
        self._before_step = before_step
        self._fence: Fence | None = None
        self.state = CoordinatorState()
        self.open: dict[int, OpenGroup] = {}
        self.ready: dict[int, ReadyGroup] = {}
        self.batches: dict[int, tuple[int, ...]] = {}
        """Groups of the batches that were cut and whose step was not seen yet."""
        self.statistics = StepStatistics()
        self._inbox: deque[Delivery] = deque()
        self._last_letter = ""
        self._refused_in_turn: Counter[str] = Counter()
        self._looked_for_dead = clock.now()
        self._moved_at = clock.now()
        """When something last arrived or was issued."""
        self._last_issue = ""
        self._ended: list[str] = []
        """Payload names that nobody needs any more."""
        self._materials: dict[int, str] = {}
        """Payload names of what verifiers need, of groups that this process issued."""

    # Start and end

    async def begin(self, restored: Restored, fence: Fence | None = None) -> None:
        """Take over `restored`, and the entries that an earlier coordinator held. Every decision from now on carries `fence`."""
        self._fence = fence
        self.state = restored.state
        self.open = dict(restored.open_groups)
        self.batches = dict(restored.batches)
        self.statistics.restore(restored.statistics)
        for step, row in sorted(restored.rows.items()):
            self._on_step(step, row)
        for stream in (VERDICTS, STEPS):
            self._inbox += await patiently(lambda stream=stream: self._queue.receive_again(stream, CONSUMER), self._clock)

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until the last step is committed or `stopping` is set."""
        failures = 0
        self.statistics.begin(self._clock.now())
        while not stopping.is_set() and self.state.committed_step < self._settings.run.steps:
            try:
                arrived = await self.turn()
                failures = 0
                if arrived:
                    await self._clock.sleep(GATHER_S)
            except QueueUnavailableError as error:
                log.warning("queue_unavailable", error=str(error))
                await self._clock.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1

    async def turn(self) -> bool:
        """One round of everything, and whether anything had arrived. A queue that is away ends it, and costs nothing.

        Public so that simulations can take their turns.
        """
        await self._take(VERDICTS, most=TAKE_VERDICTS, wait_s=TAKE_WAIT_S)
        await self._take(STEPS, most=16, wait_s=0)
        arrived = bool(self._inbox)
        await self._read_inbox()
        await self._note_dead_letters()
        await self._find_vanished()
        await self._decide_all()
        await self._sweep()
        await self._cut()
        await self._issue()
        await self._drop_ended()
        return arrived

    async def close_ledger(self) -> None:
        """After the last step, drop what is still live, so that issued = trained + filtered + dropped + dead."""
        snapshot = await patiently(self._queue.snapshot, self._clock)
        live = [name for name, state in snapshot.ledger.items() if state == LIVE]
        for start in range(0, len(live), DROP_CHUNK):
            chunk = live[start : start + DROP_CHUNK]
            await self._settle(Decision(mark=f"close:{chunk[0]}", moves=_moves(chunk, "dropped:run_ended")))
        self.open.clear()
        self.ready.clear()

    async def _settle(self, decision: Decision, state: CoordinatorState | None = None) -> None:
        """The one place that commits: with `state`, if it changes. Memory follows when the queue has it."""
        if state is not None:
            decision = replace(decision, values={**decision.values, STATE: state.to_bytes()})
        committed = await settle(self._queue, decision, self._clock, fence=self._fence, payloads=self._payloads)
        if committed is Committed.REFUSED:
            raise OprimeError(f"{decision.mark} rests on an entry that is a dead letter: start the coordinator again, it will decide anew")
        if state is not None:
            self.state = state if committed is Committed.NEW else await self._recorded_state()

    async def _recorded_state(self) -> CoordinatorState:
        """What was decided before under the same mark: by a try whose answer was lost, or by the coordinator before this one."""
        saved = await patiently(lambda: self._queue.value(STATE), self._clock)
        if saved is None:
            raise OprimeError("the queue lost the coordinator's state: it was emptied while the run went on; use oprime resume")
        return CoordinatorState.from_bytes(saved)

    # Rollouts and steps arrive

    async def _take(self, stream: str, *, most: int, wait_s: float) -> None:
        self._inbox += await self._queue.receive_held(stream, CONSUMER, most=most, wait_s=wait_s)

    async def _read_inbox(self) -> None:
        while self._inbox:
            delivery = self._inbox[0]
            try:
                await (self._add(delivery) if delivery.stream == VERDICTS else self._note_step(delivery))
            except UnusableInputError as error:
                await self._set_aside(delivery, str(error))
            self._inbox.popleft()
            self._moved_at = self._clock.now()

    async def _set_aside(self, delivery: Delivery, reason: str) -> None:
        """An entry that cannot be read: the key says which rollout it was about."""
        log.warning("dead_letter", stream=delivery.stream, key=delivery.key, reason=reason)
        await patiently(lambda: self._queue.dead_letter(delivery, reason=reason, rollout_ids=[delivery.key]), self._clock)
        self._lose(delivery.key)

    async def _add(self, delivery: Delivery) -> None:
        event = read_entry(delivery, pb.RolloutEvent, event_from_proto)
        verified = event if isinstance(event, VerifiedRollout) else None
        group_id = verified.rollout.group_id if verified else event.group_id  # pyright: ignore[reportAttributeAccessIssue]
        group = self.open.get(group_id) or await self._open_again(group_id, delivery.key)
        if group is None:
            await patiently(lambda: self._queue.acknowledge([delivery]), self._clock)
            log.debug("verdict_too_late", rollout_id=delivery.key, reason="its rollout had ended")
            return
        if verified and verified.rollout.index in group.lost and not await self._is_live(delivery.key):
            # It was given up; what its ticket gave when it was issued again has no place any more.
            group.deliveries.append(delivery)
            return
        group.add(event, delivery)
        self.statistics.arrived(event)

    async def _open_again(self, group_id: int, name: str) -> OpenGroup | None:
        """A rollout of a decided group that the ledger calls live came back by a replay; its siblings that ended stay ended."""
        if group_id in self.ready or any(group_id in groups for groups in self.batches.values()):
            return None
        names = self._names(group_id)
        states = await self._ledger_states(names)
        if states.get(name) != LIVE:
            return None
        group = self._new_group(group_id, version=self.state.committed_step)
        group.lost |= {index for index, rollout in enumerate(names) if states.get(rollout) != LIVE}
        self.open[group_id] = group
        return group

    async def _is_live(self, name: str) -> bool:
        return (await self._ledger_states([name])).get(name) == LIVE

    async def _ledger_states(self, names: Sequence[str]) -> dict[str, str]:
        return await patiently(lambda: self._queue.ledger_states(names), self._clock)

    def _names(self, group_id: int) -> list[str]:
        """Ledger names of a group's rollouts."""
        return [rollout_id(group_id, index) for index in range(self._settings.rollouts_per_group)]

    def _new_group(self, group_id: int, *, version: int) -> OpenGroup:
        return OpenGroup(
            group_id, self._settings.rollouts_per_group, has_baseline=self._settings.algorithm.needs_greedy_baseline, version=version
        )

    async def _note_dead_letters(self) -> None:
        if self._clock.now() - self._looked_for_dead < LOOK_FOR_DEAD_S:
            return
        letters = await self._queue.dead_letters(after=self._last_letter)
        self._looked_for_dead = self._clock.now()
        for letter in letters:
            self._last_letter = letter.entry
            self._metrics.count("queue_dead_letters_total", stream=letter.stream)
            for name in letter.rollout_ids:
                self._lose(name)

    def _lose(self, name: str) -> None:
        """The rollout `name` will not come. A name that is none (an unreadable entry's key) loses nothing."""
        group_id, _, index = name.partition(":")
        if group_id.isdecimal() and index.isdecimal() and int(group_id) in self.open:
            self.open[int(group_id)].lost.add(int(index))

    async def _find_vanished(self) -> None:
        """Issue again what is live but on no stream, because somebody removed its entry by hand.

        Streams are read in the order in which rollouts travel, so that nothing can pass by unseen between two readings.
        """
        if not self.open or self._clock.now() - self._moved_at < LOOK_FOR_VANISHED_S:
            return
        for stream in (TICKETS, ROLLOUTS):
            depth = await self._queue.depth(stream)
            if depth.waiting or depth.pending:
                self._moved_at = self._clock.now()
                return
        await self._take(VERDICTS, most=TAKE_VERDICTS, wait_s=0)
        if self._inbox:
            return
        self._looked_for_dead = float("-inf")
        await self._note_dead_letters()
        for group in [group for group in self.open.values() if not group.complete]:
            await self._issue_again(group)
        self._moved_at = self._clock.now()

    async def _issue_again(self, group: OpenGroup) -> None:
        ticket = await self.ticket(group.group_id)
        if ticket is None:
            raise OprimeError(
                f"group {group.group_id} lost its ticket, and its prompt cannot be sampled from any more: restore the tasks' files and "
                "sampling.max_prompt_tokens as they were"
            )
        log.warning("ticket_vanished", group_id=group.group_id, missing=sorted(group.missing), reason="on no stream: issued again")
        group.issued_again += 1
        await self._settle(
            Decision(
                mark=f"issue_again:{group.group_id}:{group.issued_again}:{self._clock.now()}",
                outputs=[_entry_of(ticket)],
                written=[ticket.material],
                forget=_marks_of(group.group_id, self._names(group.group_id)),
            )
        )

    # Groups are decided

    async def _decide_all(self) -> None:
        """In the order of issue; with S = 0 a whole wave at once, so that the acceptance rate depends on no order of arrival."""
        complete = [group for _, group in sorted(self.open.items()) if group.complete]
        if self._settings.staleness.max_staleness == 0 and len(complete) < len(self.open):
            return
        for group in complete:
            await self._decide(group)

    async def _decide(self, group: OpenGroup) -> None:
        arrived = [one.trace for one in group.verified.values()]
        with span("decide", kind="consumer", parent=arrived[-1] if arrived else "", links=arrived[:-1], group_id=group.group_id) as traced:
            await self._decide_on(group, replace(group.group(), trace=traced.context), traced)

    async def _decide_on(self, group: OpenGroup, verified: VerifiedGroup, traced: Span) -> None:
        algorithm = self._settings.algorithm
        refused = (
            STALE_STATE
            if group.stale
            else refusal(
                verified,
                self._settings.coordinator.filter,
                needs_siblings=algorithm.needs_siblings,
                needs_baseline=algorithm.needs_greedy_baseline,
            )
        )
        traced.note(decision=refused or "accepted")
        state = self.state.after_decision(accepted=refused is None)
        if refused is None:
            # A coordinator that restarts accepts again what waits for its batch; the mark makes the acceptance count once.
            await self._settle(Decision(mark=f"decide:{group.group_id}", values=self.statistics.values_of(verified, None)), state)
            self.ready[group.group_id] = ReadyGroup(group=verified, deliveries=tuple(group.deliveries))
        else:
            await self._refuse(f"decide:{group.group_id}", verified, refused, group.deliveries, state)
        del self.open[group.group_id]
        self.statistics.decided(verified, refused)
        material = self._materials.pop(group.group_id, "")
        # A rollout that was set aside may be replayed, and judged then.
        self._ended += [material] if material and not group.lost else []
        self._check_that_some_groups_pass(refused)

    def _check_that_some_groups_pass(self, refused: str | None) -> None:
        if refused is None:
            self._refused_in_turn.clear()
            return
        self._refused_in_turn[refused] += 1
        settings = self._settings.coordinator
        if self._refused_in_turn.total() >= settings.refused_batches_limit * settings.groups_per_batch:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._refused_in_turn.most_common())
            raise OprimeError(
                f"{self._refused_in_turn.total()} groups in turn were refused ({reasons}), so there is nothing to train on: look at the "
                "verdicts in the verifier's log; is it the right verifier and answer format, are the prompts too hard or too easy for "
                "the model, or coordinator.filter too narrow? (limit: coordinator.refused_batches_limit)"
            )

    async def _refuse(self, mark: str, group: VerifiedGroup, refused: str, deliveries: Iterable[Delivery], state: CoordinatorState) -> None:
        await self._settle(
            Decision(
                mark=mark,
                moves=_moves(verified_ids(group.issued), refused),
                values=self.statistics.values_of(group, refused),
                consumed=tuple(deliveries),
                forget=_marks_of(group.group_id, self._names(group.group_id)),
            ),
            state.after_rollouts(group.issued),
        )
        self._ended += [name for verified in group.issued for name in verified.rollout.payloads]
        kind, _, reason = refused.partition(":")
        self._metrics.count(f"groups_{kind}", reason=reason)

    async def _drop_ended(self) -> None:
        """Payloads end after the commits that end the need for them, all of a turn at once; what a death in between leaves is swept."""
        await drop_payloads(self._payloads, self._ended, self._clock)
        self._ended = []

    # Batches leave

    async def _sweep(self) -> None:
        """End ready groups that are too old: those of a run that went back, or that were replayed."""
        bound = self._settings.staleness.max_staleness
        for ready in list(self.ready.values()):
            if not usable(self.state.next_step, ready.group.oldest_weight_version, bound):
                group_id = ready.group.group_id
                await self._refuse(f"sweep:{group_id}", ready.group, STALE_STATE, ready.deliveries, self.state)
                del self.ready[group_id]
                self.statistics.decided(ready.group, STALE_STATE)

    async def _cut(self) -> None:
        size = self._settings.coordinator.groups_per_batch
        step = self.state.next_step
        if len(self.ready) < size or step > self._settings.run.steps or self._waits_for_slow_groups():
            return
        chosen = sorted(self.ready.values(), key=lambda ready: ready.order)[:size]
        with span("cut", kind="producer", links=[ready.group.trace for ready in chosen], step=step) as traced:
            await self._cut_batch(chosen, Batch(step=step, groups=tuple(ready.group for ready in chosen), trace=traced.context))

    async def _cut_batch(self, chosen: Sequence[ReadyGroup], batch: Batch) -> None:
        step = batch.step
        group_ids = tuple(group.group_id for group in batch.groups)
        await self._settle(
            Decision(
                mark=f"cut:{step}",
                outputs=[Output(stream=BATCHES, key=str(step), payload=batch_to_proto(batch).SerializeToString())],
                values={batch_value(step): json.dumps(group_ids).encode(), **self.statistics.values_of_cut(step, group_ids)},
                consumed=[delivery for ready in chosen for delivery in ready.deliveries],
            ),
            replace(self.state, next_step=step + 1).after_rollouts(batch.rollouts + batch.baselines),
        )
        self.batches[step] = group_ids
        self.statistics.cut(step, group_ids)
        for group_id in group_ids:
            del self.ready[group_id]
        log.info("batch_cut", step=step, groups=len(chosen), ready_left=len(self.ready), open=len(self.open))

    def _waits_for_slow_groups(self) -> bool:
        """Whether an undecided group could be too old for the batch after the next one; with S = 0, any undecided group.

        Without this, quick prompts would take the places of slow ones again and again. The last batch has none after it.
        """
        if self.state.next_step == self._settings.run.steps:
            return False
        bound = self._settings.staleness.max_staleness
        return any(not usable(self.state.next_step + 1, group.version, bound) for group in self.open.values())

    async def _note_step(self, delivery: Delivery) -> None:
        committed = read_entry(delivery, pb.CommittedStep, committed_step_from_proto)
        step = committed.step
        if step <= self.state.committed_step:
            # Seen before: what is delivered twice has one row.
            await patiently(lambda: self._queue.acknowledge([delivery]), self._clock)
            return
        state = replace(self.state, committed_step=step)
        together = sum(other.stream == STEPS for other in self._inbox)
        row = dict(committed.metrics) | self.statistics.committed(step, self._clock.now(), together=together)
        group_ids = self.batches.get(step, ())
        names = {group_id: self._names(group_id) for group_id in group_ids}
        # The trainers moved what they trained on. What a batch that they passed over left live ends here.
        left = _moves([name for group in names.values() for name in group], "dead:batches") if row.get(SKIPPED) else []
        await self._settle(
            Decision(
                mark=f"seen:{step}",
                moves=left,
                values={
                    batch_value(step): None,
                    statistics_value(step): None,
                    row_value(step): json.dumps(row).encode(),
                    row_value(step - 1): None,
                },
                consumed=[delivery],
                forget=[f"cut:{step}", *(mark for group_id in group_ids for mark in _marks_of(group_id, names[group_id]))],
            ),
            state,
        )
        self.batches.pop(step, None)
        await self._before_step()
        self._on_step(step, row)

    # Prompts enter

    async def _issue(self) -> None:
        count = groups_to_issue(
            self.state,
            ready=len(self.ready),
            live=len(self.open),
            groups_per_batch=self._settings.coordinator.groups_per_batch,
            max_staleness=self._settings.staleness.max_staleness,
            max_live_groups=self._settings.coordinator.max_live_groups,
            total_steps=self._settings.run.steps,
        )
        if count == 0:
            return
        planned = self._next_drafts(count)
        tickets = await self._with_material(planned.drafts)
        mark = f"issue:{self.state.next_group_id}"
        await self._settle(
            Decision(
                mark=mark,
                outputs=[_entry_of(ticket) for ticket in tickets],
                moves=[LedgerMove(rollout_id=name, state=LIVE) for ticket in tickets for name in ticket.rollout_ids],
                written=[ticket.material for ticket in tickets],
                forget=[self._last_issue] if self._last_issue else [],
            ),
            replace(self.state, next_group_id=planned.next_group_id, passed_over=self.state.passed_over + planned.passed_over),
        )
        self._last_issue = mark
        self._moved_at = self._clock.now()
        for ticket in tickets:
            self.open[ticket.group_id] = self._new_group(ticket.group_id, version=self.state.committed_step)

    def _next_drafts(self, count: int) -> "_Planned":
        drafts: list[_Draft] = []
        group_id = self.state.next_group_id
        while len(drafts) < count:
            draft = self._draft(group_id, ahead=len(drafts))
            group_id += 1
            if draft is not None:
                drafts.append(draft)
        return _Planned(drafts, group_id, passed_over=group_id - self.state.next_group_id - len(drafts))

    async def ticket(self, group_id: int) -> Ticket | None:
        """A new ticket of a group, its verifier's material written. None when its prompt is passed over."""
        draft = self._draft(group_id)
        return None if draft is None else (await self._with_material([draft]))[0]

    async def _with_material(self, drafts: "Sequence[_Draft]") -> list[Ticket]:
        """Write what verifiers need, once per group. Here the trace of a prompt begins."""
        parts = [(material_owner(draft.ticket.group_id), material_of(draft.request)) for draft in drafts]
        with traces_begun("issue", [{"group_id": draft.ticket.group_id} for draft in drafts]) as traces:
            names = await patiently(lambda: asyncio.to_thread(self._payloads.put_many, parts), self._clock)
        written = list(zip(drafts, names, traces, strict=True))
        self._materials |= {draft.ticket.group_id: name for draft, name, _ in written}
        return [replace(draft.ticket, material=name, trace=trace) for draft, name, trace in written]

    def _draft(self, group_id: int, *, ahead: int = 0) -> "_Draft | None":
        """The ticket of a group; `ahead` new groups are issued before it. None when its prompt is passed over."""
        task = self._task_at(group_id)
        if task is None:
            return None
        settings = self._settings
        step = expected_step(
            self.state.next_step,
            groups_per_batch=settings.coordinator.groups_per_batch,
            ready_groups=len(self.ready),
            live_groups=len(self.open) + ahead,
            acceptance=self.state.acceptance_rate,
        )
        ticket = Ticket(
            group_id=group_id,
            messages=task.messages,
            material="",
            sampling=SamplingSettings(
                temperature=settings.sampling.temperature,
                max_prompt_tokens=settings.sampling.max_prompt_tokens,
                max_response_tokens=settings.sampling.max_response_tokens,
            ),
            seeds=tuple(rollout_seed(settings.run.seed, group_id, index) for index in range(settings.sampling.group_size)),
            min_weight_version=min(min_weight_version(step, settings.staleness.max_staleness), self.state.committed_step),
            greedy_baseline=settings.algorithm.needs_greedy_baseline,
        )
        return _Draft(ticket, task.verification("", group_id=str(group_id)))


@dataclass(frozen=True, slots=True)
class _Draft:
    ticket: Ticket
    """Without the name of its material."""
    request: VerificationRequest


@dataclass(frozen=True, slots=True)
class _Planned:
    drafts: list[_Draft]
    next_group_id: int
    passed_over: int


def verified_ids(rollouts: Iterable[VerifiedRollout]) -> list[str]:
    return [verified.rollout.rollout_id for verified in rollouts]


def _entry_of(ticket: Ticket) -> Output:
    return Output(stream=TICKETS, key=str(ticket.group_id), payload=ticket_to_proto(ticket).SerializeToString())


def _moves(rollout_ids: Sequence[str], state: str) -> list[LedgerMove]:
    return [LedgerMove(rollout_id=rollout_id, state=state) for rollout_id in rollout_ids]


def _marks_of(group_id: int, names: Sequence[str]) -> list[str]:
    """Marks that stages left on a group's way. Once its rollouts have ended, a repetition changes nothing even without them."""
    return [f"generate:{group_id}", f"decide:{group_id}", *(f"verify:{name}" for name in names)]
