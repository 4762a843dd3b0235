"""All stages of a run in one process, with seeded faults: workers that die, are slow, or repeat themselves.

The queue and the coordinator's run loop are the real ones; the models are dice. A stage that "dies" simply forgets what
it held, as a killed process does.
"""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from oprime.adapters.memory_queue import MemoryQueue
from oprime.core.staleness import group_staleness
from oprime.core.types import (
    Batch,
    ChatMessage,
    CommittedStep,
    DroppedRollout,
    FinishReason,
    Rollout,
    Task,
    Ticket,
    VerificationTask,
    VerifiedRollout,
    WeightVersionSpan,
)
from oprime.core.verification import scored
from oprime.ports import BATCHES, LIVE, ROLLOUTS, SCORED, STEPS, TICKETS, VERDICTS, Delivery, LedgerMove, Output
from oprime.runtime.settings import AlgorithmSection, ModelSection, RunSection, SamplingSection, StalenessSection, TasksSection
from oprime.wire.codec import (
    batch_from_proto,
    committed_step_to_proto,
    event_to_proto,
    ticket_from_proto,
    verification_task_from_proto,
    verification_task_to_proto,
)
from oprime_coordinator.config import CoordinatorSection, CoordinatorSettings, FilterSection
from oprime_coordinator.restore import Restored, restore_from_queue
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.state import CoordinatorState
from oprime_learner.ledger import ledger_moves
from oprime_proto.v1 import common_pb2 as pb

LEASE_S = 5.0
GROUP_SIZE = 4
LEARNER_IDLE_SHARE = 0.6
"""Batches wait for the learner, so that crashes also happen between cut and commit."""


class AutoClock:
    """Sleeping takes no time at all: it moves the clock."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class NoMetrics:
    """Metrics that nobody reads."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


@dataclass
class Sampling:
    """A ticket that a simulated generator works on."""

    delivery: Delivery
    ticket: Ticket
    started_version: int
    turns_left: int


@dataclass
class World:
    seed: int
    max_staleness: int
    steps: int
    groups_per_batch: int = 4
    crash_share: float = 0.0
    """Chance that a worker dies in a turn."""
    right_share: float = 0.5
    """Chance that a rollout is right."""
    error_share: float = 0.0
    """Chance that a verification fails for good."""
    unscored_share: float = 0.0
    """Chance that a verdict has no score."""
    estimator: Literal["rloo", "remax"] = "rloo"
    folder: Path = Path("unused")
    clock: AutoClock = field(default_factory=AutoClock)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.queue = MemoryQueue(self.clock, lease_s=LEASE_S)
        self.settings = CoordinatorSettings(
            run=RunSection(name="sim", steps=self.steps, seed=self.seed, directory=self.folder),
            model=ModelSection(path="none"),
            tasks=TasksSection(),
            sampling=SamplingSection(group_size=GROUP_SIZE),
            algorithm=AlgorithmSection(estimator=self.estimator),
            staleness=StalenessSection(max_staleness=self.max_staleness),
            coordinator=CoordinatorSection(groups_per_batch=self.groups_per_batch, filter=FilterSection()),
        )
        self.loop = self.new_loop()
        self.sampling: list[Sampling] = []
        self.version = 0
        self.held_batches: list[Delivery] = []
        self.held_scored: list[Delivery] = []
        self.groups_by_step: dict[int, list[int]] = {}
        self.trained: Counter[str] = Counter()
        self.compared_with: Counter[str] = Counter()
        """Greedy baselines of trained groups."""
        self.staleness: list[int] = []
        self.step_rows: list[int] = []

    def new_loop(self) -> RunLoop:
        def note(step: int, metrics: dict[str, float]) -> None:
            self.step_rows.append(step)

        task = Task(messages=(ChatMessage(role="user", content="?"),), verifier="dice", ground_truth="1", data_source="sim")
        return RunLoop(self.settings, self.queue, self.clock, NoMetrics(), task_at=lambda position: task, on_step=note)

    async def begin(self) -> None:
        await self.loop.begin(Restored(state=CoordinatorState()))

    async def run(self, most_turns: int = 20_000) -> None:
        """Take turns until the run's last step is committed and seen."""
        for _ in range(most_turns):
            if self.loop.state.committed_step >= self.steps:
                return
            await self.turn()
        raise AssertionError(f"no end after {most_turns} turns (seed {self.seed}): committed {self.loop.state.committed_step}")

    async def turn(self) -> None:
        self.clock.time += 0.2
        stages = [self.coordinator_turn, self.generator_turn, self.verifier_turn, self.prm_turn, self.learner_turn]
        self.dice.shuffle(stages)
        for stage in stages:
            await stage()
            await self.check_ledger()

    def dies(self) -> bool:
        return self.dice.random() < self.crash_share

    async def coordinator_turn(self) -> None:
        if self.dies():
            self.loop = self.new_loop()
            restored = await restore_from_queue(self.queue)
            await self.loop.begin(restored or Restored(state=CoordinatorState()))
        await self.loop.turn()

    async def generator_turn(self) -> None:
        if self.dies():
            self.sampling.clear()
        for delivery in await self.queue.receive(TICKETS, f"generator-{self.dice.random()}", most=4, wait_s=0):
            ticket = ticket_from_proto(pb.Ticket.FromString(delivery.payload))
            assert ticket.min_weight_version <= self.version, "a ticket must not ask for weights that do not exist yet"
            self.sampling.append(Sampling(delivery, ticket, self.version, self.dice.randrange(6)))
        for work in list(self.sampling):
            work.turns_left -= 1
            if work.turns_left < 0:
                self.sampling.remove(work)
                await self.finish_group(work)

    async def finish_group(self, work: Sampling) -> None:
        """Tokens 0 and 1 come from the version at the start, token 2 from the one at the end."""
        ticket = work.ticket
        tasks = [
            VerificationTask(
                rollout=Rollout(
                    group_id=ticket.group_id,
                    index=index,
                    seed=seed,
                    prompt_ids=np.array([1], dtype=np.int32),
                    response_ids=np.array([2, 3, 4], dtype=np.int32),
                    text="",
                    behaviour_logprobs=np.zeros(3, dtype=np.float32),
                    spans=(
                        WeightVersionSpan(start=0, end=2, version=work.started_version),
                        WeightVersionSpan(start=2, end=3, version=self.version),
                    ),
                    finish_reason=FinishReason.STOP,
                ),
                request=ticket.task.verification("=1"),
            )
            for index, seed in enumerate((*ticket.seeds, ticket.group_id) if ticket.greedy_baseline else ticket.seeds)
        ]
        outputs = [
            Output(stream=ROLLOUTS, key=task.rollout.rollout_id, payload=verification_task_to_proto(task).SerializeToString())
            for task in tasks
        ]
        await self.queue.commit(f"generate:{ticket.group_id}", outputs=outputs, consumed=[work.delivery])

    async def verifier_turn(self) -> None:
        for delivery in await self.queue.receive(ROLLOUTS, f"verifier-{self.dice.random()}", most=16, wait_s=0):
            if self.dies():
                continue
            task = verification_task_from_proto(pb.VerificationTask.FromString(delivery.payload))
            # A rollout's outcome depends on its seed alone, so repeated work gives the same answer.
            right = random.Random(task.rollout.seed).random() < self.right_share
            event: VerifiedRollout | DroppedRollout = VerifiedRollout(rollout=task.rollout, outcome=scored(float(right)))
            if random.Random(task.rollout.seed + 1).random() < self.error_share:
                await self.queue.dead_letter(delivery, reason="dice", rollout_ids=[task.rollout.rollout_id])
                continue
            moves: list[LedgerMove] = []
            if random.Random(task.rollout.seed + 2).random() < self.unscored_share:
                event = DroppedRollout(group_id=task.rollout.group_id, index=task.rollout.index, reason="undecided")
                moves = [LedgerMove(rollout_id=task.rollout.rollout_id, state="dropped:undecided")]
            output = Output(stream=VERDICTS, key=task.rollout.rollout_id, payload=event_to_proto(event).SerializeToString())
            await self.queue.commit(f"verify:{task.rollout.rollout_id}", outputs=[output], moves=moves, consumed=[delivery])

    async def prm_turn(self) -> None:
        if self.dies():
            self.held_batches = await self.queue.receive_again(BATCHES, "prm")
            for delivery in self.held_batches:
                await self.score(delivery)
        for delivery in await self.queue.receive_held(BATCHES, "prm", most=1, wait_s=0):
            self.held_batches.append(delivery)
            await self.score(delivery)

    async def score(self, delivery: Delivery) -> None:
        await self.queue.commit(f"score:{delivery.key}", outputs=[Output(stream=SCORED, key=delivery.key, payload=delivery.payload)])

    async def learner_turn(self) -> None:
        if self.dice.random() < LEARNER_IDLE_SHARE:
            return
        if self.dies():
            for delivery in await self.queue.receive_again(SCORED, "learner"):
                await self.train(delivery)
        for delivery in await self.queue.receive_held(SCORED, "learner", most=1, wait_s=0):
            self.held_scored.append(delivery)
            await self.train(delivery)
        if len(self.held_scored) >= 3:
            await self.queue.acknowledge(self.held_scored)
            self.held_scored.clear()

    async def train(self, delivery: Delivery) -> None:
        batch = batch_from_proto(pb.Batch.FromString(delivery.payload))
        output = Output(
            stream=STEPS,
            key=str(batch.step),
            payload=committed_step_to_proto(CommittedStep(step=batch.step, weight_version=batch.step)).SerializeToString(),
        )
        if await self.queue.commit(f"train:{batch.step}", outputs=[output], moves=ledger_moves(batch)):
            self.note_trained(batch)

    def note_trained(self, batch: Batch) -> None:
        assert batch.step == self.version + 1, "steps are trained in order, each once"
        self.version = batch.step
        self.groups_by_step[batch.step] = [group.group_id for group in batch.groups]
        self.trained.update(one.rollout.rollout_id for one in batch.rollouts)
        self.compared_with.update(one.rollout.rollout_id for one in batch.baselines)
        self.staleness += [
            group_staleness(batch.step, [one.rollout.oldest_weight_version for one in group.issued]) for group in batch.groups
        ]

    async def check_ledger(self) -> None:
        """issued = trained + baseline + filtered + dropped + dead + live, in the counts and in the entries alike."""
        counts = await self.queue.ledger_counts()
        states = [state async for _, state in self.queue.ledger_entries()]
        assert counts.get("issued", 0) == len(states)
        assert counts.get("issued", 0) == sum(count for name, count in counts.items() if name != "issued")
        assert counts.get(LIVE, 0) == states.count(LIVE)

    async def states(self) -> dict[str, int]:
        """Rollouts by the kind of their ledger state."""
        kinds: dict[str, int] = defaultdict(int)
        async for _, state in self.queue.ledger_entries():
            kinds[state.partition(":")[0]] += 1
        return dict(kinds)
