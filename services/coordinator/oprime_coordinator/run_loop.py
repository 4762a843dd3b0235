"""The run: issues tickets, completes groups, cuts batches, and follows the learner's commits.

Everything that matters is in the queue: each decision is one commit, and memory changes only after it. So the loop can
die anywhere; the next one rebuilds the same state.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import structlog

from oprime.core.staleness import expected_step, min_weight_version, usable
from oprime.core.types import Batch, SamplingSettings, Task, Ticket, VerifiedGroup, VerifiedRollout
from oprime.ports import BATCHES, LIVE, STEPS, TICKETS, VERDICTS, Clock, Delivery, LedgerMove, Metrics, Output, Queue
from oprime.runtime.consume import BACKOFF_S
from oprime.runtime.errors import OprimeError, QueueUnavailableError
from oprime.tasks.seeds import rollout_seed
from oprime.wire.codec import batch_to_proto, committed_step_from_proto, event_from_proto, ticket_to_proto
from oprime_coordinator.admission import groups_to_issue
from oprime_coordinator.config import CoordinatorSettings
from oprime_coordinator.groups import OpenGroup, ReadyGroup, refusal
from oprime_coordinator.restore import Restored
from oprime_coordinator.state import STATE, CoordinatorState, batch_value
from oprime_coordinator.step_statistics import StepStatistics
from oprime_proto.v1 import common_pb2 as pb

log = structlog.get_logger()

CONSUMER = "coordinator"
TAKE_VERDICTS = 1024
TAKE_WAIT_S = 0.05
LOOK_FOR_DEAD_S = 1.0
DROP_CHUNK = 1000

OnStep = Callable[[int, dict[str, float]], None]


class RunLoop:
    """One run's decisions. Talks only to the queue."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        queue: Queue,
        clock: Clock,
        metrics: Metrics,
        *,
        task_at: Callable[[int], Task | None],
        on_step: OnStep,
    ) -> None:
        """`task_at` gives the task at a place in the prompt order, None to pass over it; `on_step` hears of committed steps."""
        self._settings = settings
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._task_at = task_at
        self._on_step = on_step
        self.state = CoordinatorState()
        self.open: dict[int, OpenGroup] = {}
        self.ready: dict[int, ReadyGroup] = {}
        self.statistics = StepStatistics(clock.now())
        self.passed_over = 0
        """Prompts longer than sampling.max_prompt_tokens."""
        self._dead_seen: set[str] = set()
        self._refused_in_turn: Counter[str] = Counter()
        self._looked_for_dead = clock.now()

    # Start and end

    async def begin(self, restored: Restored) -> None:
        """Take over `restored`, and the entries that an earlier coordinator held."""
        self.state = restored.state
        self.open = dict(restored.open_groups)
        for group in self.open.values():
            # The ledger knows how many rollouts a group has; the run's settings know what the last one is for.
            group.has_baseline = self._settings.algorithm.needs_greedy_baseline
        for delivery in await self._queue.receive_again(VERDICTS, CONSUMER):
            await self._add(delivery)
        for delivery in await self._queue.receive_again(STEPS, CONSUMER):
            await self._note_step(delivery)

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until the last step is committed or `stopping` is set."""
        failures = 0
        while not stopping.is_set() and self.state.committed_step < self._settings.run.steps:
            try:
                await self.turn()
                failures = 0
            except QueueUnavailableError as error:
                log.warning("queue_unavailable", error=str(error))
                await self._clock.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1

    async def turn(self) -> None:
        """One round of everything; public so that simulations can take their turns."""
        for delivery in await self._queue.receive_held(VERDICTS, CONSUMER, most=TAKE_VERDICTS, wait_s=TAKE_WAIT_S):
            await self._add(delivery)
        for delivery in await self._queue.receive_held(STEPS, CONSUMER, most=16, wait_s=0):
            await self._note_step(delivery)
        await self._note_dead_letters()
        await self._decide_all()
        await self._sweep()
        await self._cut()
        await self._issue()

    async def close_ledger(self) -> None:
        """After the last step, drop what is still live, so that issued = trained + filtered + dropped + dead."""
        live = [rollout_id async for rollout_id, state in self._queue.ledger_entries() if state == LIVE]
        for start in range(0, len(live), DROP_CHUNK):
            chunk = live[start : start + DROP_CHUNK]
            await self._queue.commit(f"close:{chunk[0]}", moves=_moves(chunk, "dropped:run_ended"))
        self.open.clear()
        self.ready.clear()

    # Rollouts arrive

    async def _add(self, delivery: Delivery) -> None:
        event = event_from_proto(pb.RolloutEvent.FromString(delivery.payload))
        verified = event if isinstance(event, VerifiedRollout) else None
        group_id = verified.rollout.group_id if verified else event.group_id  # pyright: ignore[reportAttributeAccessIssue]
        group = self.open.get(group_id)
        if group is None:
            # Its group was decided without it (a replayed dead letter); what the ledger still calls live ends here.
            await self._queue.commit(f"late:{delivery.entry}", moves=_moves([delivery.key], "dropped:late"), consumed=[delivery])
            return
        group.add(event, delivery)
        if verified and group.is_baseline(verified.rollout.index):
            self.statistics.add_baseline(verified)
        elif verified:
            self.statistics.add(verified)

    async def _note_dead_letters(self) -> None:
        if self._clock.now() - self._looked_for_dead < LOOK_FOR_DEAD_S:
            return
        self._looked_for_dead = self._clock.now()
        for letter in await self._queue.dead_letters():
            if letter.entry in self._dead_seen:
                continue
            self._dead_seen.add(letter.entry)
            self._metrics.count("queue_dead_letters_total", stream=letter.stream)
            for rollout_id in letter.rollout_ids:
                group_id, _, index = rollout_id.partition(":")
                if int(group_id) in self.open:
                    self.open[int(group_id)].lost.add(int(index))

    async def _decide_all(self) -> None:
        for group in [group for group in self.open.values() if group.complete]:
            await self._decide(group)

    async def _decide(self, group: OpenGroup) -> None:
        verified = group.group()
        algorithm = self._settings.algorithm
        refused = refusal(
            verified,
            self._settings.coordinator.filter,
            needs_siblings=algorithm.needs_siblings,
            needs_baseline=algorithm.needs_greedy_baseline,
        )
        state = self.state.after_decision(accepted=refused is None)
        if refused is None:
            self.ready[group.group_id] = ReadyGroup(group=verified, deliveries=tuple(group.deliveries))
            self.state = state
        else:
            await self._refuse(f"decide:{group.group_id}", verified, refused, group.deliveries, state)
        del self.open[group.group_id]
        self.statistics.decisions[refused or "accepted"] += 1
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
        counted = state.after_rollouts(group.issued)
        await self._queue.commit(
            mark, moves=_moves(verified_ids(group.issued), refused), values={STATE: counted.to_bytes()}, consumed=tuple(deliveries)
        )
        self.state = counted
        kind, _, reason = refused.partition(":")
        self._metrics.count(f"groups_{kind}", reason=reason)

    # Batches leave

    async def _sweep(self) -> None:
        bound = self._settings.staleness.max_staleness
        for ready in list(self.ready.values()):
            if not usable(self.state.next_step, ready.group.oldest_weight_version, bound):
                group_id = ready.group.group_id
                await self._refuse(f"sweep:{group_id}", ready.group, "dropped:stale", ready.deliveries, self.state)
                del self.ready[group_id]
                self.statistics.decisions["dropped:stale"] += 1

    async def _cut(self) -> None:
        size = self._settings.coordinator.groups_per_batch
        synchronous = self._settings.staleness.max_staleness == 0
        if len(self.ready) < size or self.state.next_step > self._settings.run.steps or (synchronous and self.open):
            return
        chosen = sorted(self.ready.values(), key=lambda ready: ready.order)[:size]
        step = self.state.next_step
        batch = Batch(step=step, groups=tuple(ready.group for ready in chosen))
        state = replace(self.state, next_step=step + 1).after_rollouts(batch.rollouts + batch.baselines)
        await self._queue.commit(
            f"cut:{step}",
            outputs=[Output(stream=BATCHES, key=str(step), payload=batch_to_proto(batch).SerializeToString())],
            values={STATE: state.to_bytes(), batch_value(step): json.dumps([group.group_id for group in batch.groups]).encode()},
            consumed=[delivery for ready in chosen for delivery in ready.deliveries],
        )
        self.state = state
        for group in batch.groups:
            del self.ready[group.group_id]
        log.info("batch_cut", step=step, groups=size, ready_left=len(self.ready), open=len(self.open))

    async def _note_step(self, delivery: Delivery) -> None:
        committed = committed_step_from_proto(pb.CommittedStep.FromString(delivery.payload))
        state = replace(self.state, committed_step=max(self.state.committed_step, committed.step))
        self._on_step(committed.step, dict(committed.metrics) | self.statistics.row(self._clock.now()))
        self.statistics = StepStatistics(self._clock.now())
        await self._queue.commit(
            f"seen:{committed.step}", values={STATE: state.to_bytes(), batch_value(committed.step): b""}, consumed=[delivery]
        )
        self.state = state

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
        tickets, next_group_id = self._next_tickets(count)
        state = replace(self.state, next_group_id=next_group_id)
        await self._queue.commit(
            f"issue:{self.state.next_group_id}",
            outputs=[
                Output(stream=TICKETS, key=str(ticket.group_id), payload=ticket_to_proto(ticket).SerializeToString()) for ticket in tickets
            ],
            moves=[LedgerMove(rollout_id=name, state=LIVE) for ticket in tickets for name in ticket.rollout_ids],
            values={STATE: state.to_bytes()},
        )
        self.state = state
        for ticket in tickets:
            self.open[ticket.group_id] = OpenGroup(ticket.group_id, len(ticket.rollout_ids), ticket.greedy_baseline)

    def _next_tickets(self, count: int) -> tuple[list[Ticket], int]:
        tickets: list[Ticket] = []
        group_id = self.state.next_group_id
        while len(tickets) < count:
            ticket = self.ticket(group_id, ahead=len(tickets))
            group_id += 1
            if ticket is None:
                self.passed_over += 1
            else:
                tickets.append(ticket)
        return tickets, group_id

    def ticket(self, group_id: int, *, ahead: int = 0) -> Ticket | None:
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
        return Ticket(
            group_id=group_id,
            task=task,
            sampling=SamplingSettings(
                temperature=settings.sampling.temperature,
                max_prompt_tokens=settings.sampling.max_prompt_tokens,
                max_response_tokens=settings.sampling.max_response_tokens,
            ),
            seeds=tuple(rollout_seed(settings.run.seed, group_id, index) for index in range(settings.sampling.group_size)),
            min_weight_version=min(min_weight_version(step, settings.staleness.max_staleness), self.state.committed_step),
            greedy_baseline=settings.algorithm.needs_greedy_baseline,
        )


def verified_ids(rollouts: Iterable[VerifiedRollout]) -> list[str]:
    return [verified.rollout.rollout_id for verified in rollouts]


def _moves(rollout_ids: Sequence[str], state: str) -> list[LedgerMove]:
    return [LedgerMove(rollout_id=rollout_id, state=state) for rollout_id in rollout_ids]
