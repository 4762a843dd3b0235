"""All stages of a run in one process, with seeded faults: workers that die, are slow, or repeat themselves, calls of the
queue that are not done, or whose answer is lost.

The queue and the coordinator's run loop are the real ones; the models are dice. A stage that "dies" simply forgets what
it held, as a killed process does.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.memory_queue import MemoryQueue
from oprime.core.ledger_audit import ledger_findings
from oprime.core.staleness import rollout_staleness
from oprime.core.types import (
    Batch,
    ChatMessage,
    CommittedStep,
    DroppedRollout,
    FinishReason,
    Rollout,
    ScoredBatch,
    Task,
    Ticket,
    VerificationTask,
    VerifiedRollout,
    WeightVersionSpan,
    sampled,
    untrained,
)
from oprime.core.verification import scored
from oprime.ports import BATCHES, LIVE, ROLLOUTS, SCORED, STEPS, TICKETS, VERDICTS, Delivery, Fence, LedgerMove, Output
from oprime.runtime.consume import patiently
from oprime.runtime.decision import Decision, settle
from oprime.runtime.errors import QueueUnavailableError
from oprime.runtime.releases import Releases
from oprime.runtime.rollout_payloads import payload_names, rewards_owner, write_rollouts
from oprime.runtime.settings import AlgorithmSection, ModelSection, RunSection, SamplingSection, StalenessSection, TasksSection
from oprime.wire.codec import (
    batch_from_proto,
    committed_step_to_proto,
    event_to_proto,
    scored_batch_from_proto,
    scored_batch_to_proto,
    ticket_from_proto,
    verification_task_from_proto,
    verification_task_to_proto,
)
from oprime_coordinator.config import CoordinatorSection, CoordinatorSettings, FilterSection
from oprime_coordinator.coordinate import LEASE
from oprime_coordinator.restore import Restore
from oprime_coordinator.run_loop import RunLoop
from oprime_coordinator.state import STATE, CoordinatorState
from oprime_coordinator.sweep import Sweep
from oprime_learner.train import ledger_moves
from oprime_proto.v1 import common_pb2 as pb
from simulation.faults import Fault, KilledError, faulty, faulty_payloads

Estimator = Literal["rloo", "remax"]

LEASE_S = 5.0
GROUP_SIZE = 4
SLOW_TURNS = 15
CHECK_EVERY = 3
"""Turns between two recounts of the whole ledger: what goes wrong in a ledger stays wrong."""
TRAINERS = ("prm", "learner")
PRM_CHECKPOINT_EVERY, LEARNER_CHECKPOINT_EVERY = 2, 3
"""Batches; not the same, so that each trainer is at times the last to have a checkpoint."""
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
    fault_share: float = 0.0
    """Chance that a call of the queue fails in one of the ways of `Fault`."""
    slow_share: float = 0.0
    """Share of prompts whose responses take much longer."""
    group_size: int = GROUP_SIZE
    estimator: Estimator = "rloo"
    folder: Path = Path("unused")
    clock: AutoClock = field(default_factory=AutoClock)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.fault_dice = random.Random(self.seed + 1)
        self.faults: Counter[Fault] = Counter()
        self.payloads = MemoryPayloads()
        self.use(MemoryQueue(self.clock, lease_s=LEASE_S, max_deliveries=1000))
        self.coordinators = 0
        self.turns = 0
        self.settings = CoordinatorSettings(
            run=RunSection(name="sim", steps=self.steps, seed=self.seed, directory=self.folder),
            model=ModelSection(path="none"),
            tasks=TasksSection(),
            sampling=SamplingSection(group_size=self.group_size),
            algorithm=AlgorithmSection(estimator=self.estimator),
            staleness=StalenessSection(max_staleness=self.max_staleness),
            coordinator=CoordinatorSection(groups_per_batch=self.groups_per_batch, filter=FilterSection()),
        )
        self.loop = self.new_loop()
        self.sampling: list[Sampling] = []
        self.version = 0
        self.held_batches: list[Delivery] = []
        self.held_scored: list[Delivery] = []
        self.checkpoints: dict[str, int] = dict.fromkeys(TRAINERS, 0)
        """Newest step in each trainer's checkpoint."""
        self.releases: dict[str, Releases] = {trainer: self.new_releases(trainer) for trainer in TRAINERS}
        self.groups_by_step: dict[int, list[int]] = {}
        self.trained: Counter[str] = Counter()
        self.compared_with: Counter[str] = Counter()
        """Greedy baselines of trained groups."""
        self.staleness: list[int] = []
        self.step_rows: list[int] = []
        self.step_metrics: dict[int, dict[str, float]] = {}

    def use(self, queue: MemoryQueue) -> None:
        """`queue` is as an onlooker sees it; the stages call it through `calls`."""
        self.queue = queue
        self.calls = faulty(queue, self.draw_faults())
        self.store = faulty_payloads(self.payloads, self.draw_faults())

    def draw_faults(self) -> Iterator[Fault]:
        while True:
            fault = self.fault_dice.choice(list(Fault)[1:]) if self.fault_dice.random() < self.fault_share else Fault.NONE
            self.faults[fault] += 1
            yield fault

    def new_loop(self) -> RunLoop:
        def note(step: int, metrics: dict[str, float]) -> None:
            self.step_rows.append(step)
            self.step_metrics[step] = metrics

        task = Task(messages=(ChatMessage(role="user", content="?"),), verifier="dice", ground_truth="1", data_source="sim")
        return RunLoop(self.settings, self.calls, self.store, self.clock, NoMetrics(), task_at=lambda position: task, on_step=note)

    async def restart_releases(self, trainer: str) -> None:
        self.releases[trainer] = self.new_releases(trainer)
        await self.releases[trainer].say(self.checkpoints[trainer])

    def new_releases(self, trainer: str) -> Releases:
        return Releases(trainer, TRAINERS, self.calls, self.store, self.clock)

    async def begin(self) -> None:
        await self.surely(self.start_coordinator)

    async def start_coordinator(self) -> None:
        """A new coordinator takes the lease of the one before and goes on from the queue."""
        self.coordinators += 1
        token = await self.queue.take_turn(LEASE, f"coordinator-{self.coordinators}", seconds=1e-9)
        self.clock.time += 1e-3
        fence = Fence(name=LEASE, token=token)
        self.loop = self.loop if self.coordinators == 1 else self.new_loop()
        restore = Restore(self.settings, self.calls, self.clock, fence)
        await self.loop.begin(await restore.from_queue() or await restore.afresh(), fence)

    async def close_ledger(self) -> None:
        """What the coordinator does last, however often it dies over it."""
        while True:
            try:
                await self.loop.close_ledger()
            except KilledError:
                await self.surely(self.start_coordinator)
            else:
                return

    async def surely(self, start: Callable[[], Awaitable[None]]) -> None:
        """A process that dies while it starts is started again."""
        while True:
            try:
                await start()
            except KilledError:
                continue
            return

    async def run(self, most_turns: int = 20_000) -> None:
        """Take turns until the run's last step is committed and seen."""
        for _ in range(most_turns):
            if self.loop.state.committed_step >= self.steps:
                return
            await self.turn()
        raise AssertionError(f"no end after {most_turns} turns (seed {self.seed}): committed {self.loop.state.committed_step}")

    async def turn(self) -> None:
        self.clock.time += 0.2
        stages = [
            (self.coordinator_turn, self.start_coordinator),
            (self.generator_turn, self.start_generator),
            (self.verifier_turn, None),
            (self.prm_turn, self.start_prm),
            (self.learner_turn, self.start_learner),
        ]
        self.dice.shuffle(stages)
        for stage, start in stages:
            try:
                await stage()
            except QueueUnavailableError:
                pass  # As the loops of the services do: the next turn asks again.
            except KilledError:
                if start is not None:
                    await self.surely(start)
        self.turns += 1
        if self.turns % CHECK_EVERY == 0:
            await self.check_ledger()

    def dies(self) -> bool:
        return self.dice.random() < self.crash_share

    async def settle(self, decision: Decision) -> None:
        await settle(self.calls, decision, self.clock, payloads=self.store)

    def stored(self, *names: str) -> bool:
        return None not in self.payloads.sizes(names)

    async def coordinator_turn(self) -> None:
        if self.dies():
            await self.surely(self.start_coordinator)
        await self.loop.turn()

    def is_slow(self, group_id: int) -> bool:
        return random.Random(group_id).random() < self.slow_share

    async def start_generator(self) -> None:
        self.sampling.clear()

    async def generator_turn(self) -> None:
        if self.dies():
            await self.start_generator()
        for delivery in await self.calls.receive(TICKETS, f"generator-{self.dice.random()}", most=4, wait_s=0):
            ticket = ticket_from_proto(pb.Ticket.FromString(delivery.payload))
            assert self.stored(ticket.material), "a ticket's verifier finds what it needs"
            assert ticket.min_weight_version <= self.version, "a ticket must not ask for weights that do not exist yet"
            turns = self.dice.randrange(6) + SLOW_TURNS * self.is_slow(ticket.group_id)
            self.sampling.append(Sampling(delivery, ticket, self.version, turns))
        for work in list(self.sampling):
            work.turns_left -= 1
            if work.turns_left < 0:
                self.sampling.remove(work)
                await self.finish_group(work)

    async def finish_group(self, work: Sampling) -> None:
        """Tokens 0 and 1 come from the version at the start, token 2 from the one at the end."""
        ticket = work.ticket
        spans = [
            WeightVersionSpan(start=0, end=2, version=work.started_version),
            WeightVersionSpan(start=2, end=3, version=self.version),
        ]
        rollouts = [
            Rollout(
                group_id=ticket.group_id,
                index=index,
                seed=seed,
                segments=(untrained([1]), *sampled([2, 3, 4], [0.0, 0.0, 0.0], spans)),
                text=str(seed),
                finish_reason=FinishReason.STOP,
            )
            for index, seed in enumerate((*ticket.seeds, ticket.group_id) if ticket.greedy_baseline else ticket.seeds)
        ]
        records = await patiently(lambda: asyncio.to_thread(write_rollouts, self.store, rollouts), self.clock)
        tasks = [VerificationTask(rollout=record, material=ticket.material) for record in records]
        outputs = [
            Output(stream=ROLLOUTS, key=task.rollout.rollout_id, payload=verification_task_to_proto(task).SerializeToString())
            for task in tasks
        ]
        names = [name for record in records for name in record.payloads]
        await self.settle(Decision(mark=f"generate:{ticket.group_id}", outputs=outputs, consumed=[work.delivery], written=names))

    async def verifier_turn(self) -> None:
        for delivery in await self.calls.receive(ROLLOUTS, f"verifier-{self.dice.random()}", most=16, wait_s=0):
            if self.dies():
                continue
            task = verification_task_from_proto(pb.VerificationTask.FromString(delivery.payload))
            (text,) = self.payloads.get_many([task.rollout.text])
            if text is None or not self.stored(task.material):
                states = await self.queue.ledger_states([task.rollout.rollout_id])
                assert states[task.rollout.rollout_id] != LIVE, "what a live rollout's verifier needs is there"
                await self.calls.acknowledge([delivery])
                continue
            # A rollout's outcome depends on its seed alone, so repeated work gives the same answer.
            seed = int(text)
            right = random.Random(seed).random() < self.right_share
            event: VerifiedRollout | DroppedRollout = VerifiedRollout(rollout=task.rollout, outcome=scored(float(right)))
            if random.Random(seed + 1).random() < self.error_share:
                await self.calls.dead_letter(delivery, reason="dice", rollout_ids=[task.rollout.rollout_id])
                continue
            moves: list[LedgerMove] = []
            if random.Random(seed + 2).random() < self.unscored_share:
                event = DroppedRollout(group_id=task.rollout.group_id, index=task.rollout.index, reason="undecided")
                moves = [LedgerMove(rollout_id=task.rollout.rollout_id, state="dropped:undecided")]
            output = Output(stream=VERDICTS, key=task.rollout.rollout_id, payload=event_to_proto(event).SerializeToString())
            await self.settle(Decision(mark=f"verify:{task.rollout.rollout_id}", outputs=[output], moves=moves, consumed=[delivery]))

    async def start_prm(self) -> None:
        await self.restart_releases("prm")
        again = await patiently(lambda: self.calls.receive_again(BATCHES, "prm"), self.clock)
        done, self.held_batches = _split(again, self.checkpoints["prm"])
        await self.let_go_of_batches(done)
        for delivery in self.held_batches:
            await self.score(delivery)

    async def prm_turn(self) -> None:
        if self.dies():
            await self.surely(self.start_prm)
        for delivery in await self.calls.receive_held(BATCHES, "prm", most=1, wait_s=0):
            self.held_batches.append(delivery)
            await self.score(delivery)
        if len(self.held_batches) >= PRM_CHECKPOINT_EVERY:
            await self.checkpoint_prm()

    async def checkpoint_prm(self) -> None:
        held, self.held_batches = self.held_batches, []
        self.checkpoints["prm"] = int(held[-1].key) if held else self.checkpoints["prm"]
        await self.let_go_of_batches(held)

    async def let_go_of_batches(self, held: list[Delivery]) -> None:
        """Of those that the checkpoint contains; their payloads may be gone already."""
        batches = [batch_from_proto(pb.Batch.FromString(one.payload)) for one in held]
        await patiently(lambda: self.calls.acknowledge(held), self.clock)
        if batches:
            await self.releases["prm"].release(batches[-1].step, [], [name for one in batches for name in payload_names(one)])

    async def score(self, delivery: Delivery) -> None:
        batch = batch_from_proto(pb.Batch.FromString(delivery.payload))
        assert self.stored(*payload_names(batch)), f"step {batch.step}: the PRM finds its rollouts"
        name = await patiently(lambda: asyncio.to_thread(self.store.put, rewards_owner(batch.step), b"rewards"), self.clock)
        scored_batch = scored_batch_to_proto(ScoredBatch(batch=batch, process_rewards=(name,), prm_version=batch.step))
        output = Output(stream=SCORED, key=delivery.key, payload=scored_batch.SerializeToString())
        await self.settle(Decision(mark=f"score:{delivery.key}", outputs=[output], written=[name]))

    async def start_learner(self) -> None:
        await self.restart_releases("learner")
        again = await patiently(lambda: self.calls.receive_again(SCORED, "learner"), self.clock)
        done, self.held_scored = _split(again, self.checkpoints["learner"])
        await self.let_go_of_scored(done)
        for delivery in self.held_scored:
            await self.train(delivery)

    async def learner_turn(self) -> None:
        if self.dice.random() < LEARNER_IDLE_SHARE:
            return
        if self.dies():
            await self.surely(self.start_learner)
        for delivery in await self.calls.receive_held(SCORED, "learner", most=1, wait_s=0):
            self.held_scored.append(delivery)
            await self.train(delivery)
        if len(self.held_scored) >= LEARNER_CHECKPOINT_EVERY:
            await self.checkpoint_learner()

    async def checkpoint_learner(self) -> None:
        held, self.held_scored = self.held_scored, []
        self.checkpoints["learner"] = int(held[-1].key) if held else self.checkpoints["learner"]
        await self.let_go_of_scored(held)

    async def let_go_of_scored(self, held: list[Delivery]) -> None:
        """Of those that the checkpoint contains; their payloads may be gone already."""
        batches = [scored_batch_from_proto(pb.ScoredBatch.FromString(one.payload)) for one in held]
        await patiently(lambda: self.calls.acknowledge(held), self.clock)
        if batches:
            own = [name for one in batches for name in one.process_rewards]
            shared = [name for one in batches for name in payload_names(one.batch)]
            await self.releases["learner"].release(batches[-1].batch.step, own, shared)

    async def train(self, delivery: Delivery) -> None:
        scored_batch = scored_batch_from_proto(pb.ScoredBatch.FromString(delivery.payload))
        batch = scored_batch.batch
        assert self.stored(*payload_names(batch), *scored_batch.process_rewards), f"step {batch.step}: the learner finds what it trains on"
        self.note_trained(batch)
        output = Output(
            stream=STEPS,
            key=str(batch.step),
            payload=committed_step_to_proto(CommittedStep(step=batch.step, weight_version=batch.step)).SerializeToString(),
        )
        await self.settle(Decision(mark=f"train:{batch.step}", outputs=[output], moves=ledger_moves(batch)))
        self.version = max(self.version, batch.step)

    def note_trained(self, batch: Batch) -> None:
        """A learner that went back trains on its batches again, and they must be the same ones."""
        group_ids = [group.group_id for group in batch.groups]
        if batch.step in self.groups_by_step:
            assert self.groups_by_step[batch.step] == group_ids, f"two batches of step {batch.step}"
            return
        assert batch.step == max(self.groups_by_step, default=self.version) + 1, "steps are trained in order"
        self.groups_by_step[batch.step] = group_ids
        self.trained.update(one.rollout.rollout_id for one in batch.rollouts)
        self.compared_with.update(one.rollout.rollout_id for one in batch.baselines)
        self.staleness += [
            rollout_staleness(batch.step, min(one.rollout.oldest_weight_version for one in group.issued)) for group in batch.groups
        ]

    async def check_ledger(self) -> None:
        """issued = trained + baseline + filtered + dropped + dead + live, in the counts and in the entries alike."""
        counts = await self.queue.ledger_counts()
        states = [state async for _, state in self.queue.ledger_entries()]
        assert counts.get("issued", 0) == len(states)
        assert counts.get("issued", 0) == sum(count for name, count in counts.items() if name != "issued")
        assert counts.get(LIVE, 0) == states.count(LIVE)
        await self.check_whole()

    async def check_whole(self) -> None:
        """Whoever restored from this moment would find every group that was issued."""
        snapshot = await self.queue.snapshot()
        if STATE in snapshot.values:
            state = CoordinatorState.from_bytes(snapshot.values[STATE])
            assert not ledger_findings(
                snapshot.ledger, next_group_id=state.next_group_id, size=self.settings.rollouts_per_group, passed_over=state.passed_over
            )

    async def end(self) -> None:
        """What is left to do after the last step: the trainers' last checkpoints, and the ledger is closed."""
        for start, held, checkpoint in (
            (self.start_prm, self.held_batches, self.checkpoint_prm),
            (self.start_learner, self.held_scored, self.checkpoint_learner),
        ):
            while held:
                try:
                    await checkpoint()
                    break
                except KilledError:
                    await self.surely(start)
        await self.close_ledger()

    async def sweep(self) -> int:
        """What the coordinator does now and then, while nothing is being written."""
        section = self.settings
        sweep = Sweep(self.queue, self.payloads, self.clock, group_size=section.rollouts_per_group, trainers=TRAINERS, lease_s=LEASE_S)
        return await sweep.once(grace_s=0)

    async def states(self) -> dict[str, int]:
        """Rollouts by the kind of their ledger state."""
        kinds: dict[str, int] = defaultdict(int)
        async for _, state in self.queue.ledger_entries():
            kinds[state.partition(":")[0]] += 1
        return dict(kinds)


def _split(deliveries: list[Delivery], step: int) -> tuple[list[Delivery], list[Delivery]]:
    """Those up to a checkpoint's step, and those after it."""
    return [one for one in deliveries if int(one.key) <= step], [one for one in deliveries if int(one.key) > step]
