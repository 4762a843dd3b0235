"""PRM and learner at work on a queue in memory, with real tiny models: entries nobody can use, stops, restarts, lost answers."""

import asyncio
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from fakes import OneRank
from oprime.adapters.memory_payloads import MemoryPayloads
from oprime.adapters.memory_queue import MemoryQueue
from oprime.adapters.prometheus_metrics import PrometheusMetrics
from oprime.adapters.store_weights import StoreWeights
from oprime.adapters.system_clock import SystemClock
from oprime.core.prompt_families import PromptFamily
from oprime.core.types import Batch, CommittedStep, ScoredBatch, VerifiedGroup, VerifiedRollout
from oprime.core.verification import scored
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import load_tokenizer
from oprime.ports import BATCHES, SCORED, STEPS, Committed, Delivery, Output
from oprime.runtime.errors import NotReadyError, QueueUnavailableError, RunEndedError
from oprime.runtime.heartbeat import BusyMeter
from oprime.runtime.in_order import START_FROM
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.runtime.releases import RELEASED
from oprime.runtime.rollout_payloads import RewardWriter, payload_names, read_rollouts, write_rollouts
from oprime.runtime.run_end import say_finished
from oprime.runtime.setting_rules import trainers_of
from oprime.runtime.train_loop import TrainLoop
from oprime.wire.codec import batch_to_proto, committed_step_from_proto, scored_batch_to_proto
from oprime_learner.config import LearnerSettings
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.rank_methods import Models as LearnerModels
from oprime_learner.rank_methods import RankMethods as LearnerMethods
from oprime_learner.servicer import Progress
from oprime_learner.source import source_of
from oprime_learner.train import TrainPolicy
from oprime_prm.config import PrmSettings
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.prm_copy import PrmCopy
from oprime_prm.rank_methods import SERVE
from oprime_prm.rank_methods import Models as PrmModels
from oprime_prm.rank_methods import RankMethods as PrmMethods
from oprime_prm.references import References
from oprime_prm.serving import ServingPrm
from oprime_prm.train import TrainPrm
from oprime_proto.v1 import common_pb2 as pb
from plain_engine import PlainEngine
from rollouts import single_turn
from tiny_policies import write_policy

STEPS_OF_RUN = 5
TIMEOUT_S = 60.0


@dataclass
class Run:
    """A run's folder, queue and payloads, which outlive its services."""

    folder: Path
    checkpoint_every: int = 2
    when_finished: str = "serve"
    algorithm: dict[str, Any] = field(default_factory=dict[str, Any])
    scoring: dict[str, Any] = field(default_factory=dict[str, Any])
    queue: MemoryQueue = field(default_factory=lambda: MemoryQueue(SystemClock()))
    payloads: MemoryPayloads = field(default_factory=MemoryPayloads)
    metrics: PrometheusMetrics = field(default_factory=PrometheusMetrics)
    ready: list[str] = field(default_factory=list[str])
    """Services that said so, with what they had loaded."""

    def settings(self) -> dict[str, Any]:
        return {
            "run": {
                "name": "one",
                "directory": self.folder,
                "steps": STEPS_OF_RUN,
                "checkpoint_every": self.checkpoint_every,
                "when_finished": self.when_finished,
            },
            "model": {"path": str(self.folder / "model")},
            "algorithm": self.algorithm,
        }

    @property
    def start(self) -> Path:
        return self.folder / "model"

    def batch(self, step: int) -> Batch:
        """Two groups of two rollouts, the first of each right, in the run's store."""
        groups = range(10 * step, 10 * step + 2)
        rollouts = [single_turn(group, index, [3, 4, 5], [6 + index, 7 + step, 8], seed=index) for group in groups for index in range(2)]
        records = iter(write_rollouts(self.payloads, rollouts))
        return Batch(
            step=step,
            groups=tuple(
                VerifiedGroup(
                    group_id=group,
                    rollouts=tuple(VerifiedRollout(rollout=next(records), outcome=scored(float(index == 0))) for index in range(2)),
                )
                for group in groups
            ),
        )

    def scored_batch(self, step: int, *, size: float = 0.1) -> ScoredBatch:
        """The PRM likes right rollouts, by `size` per token, and dislikes wrong ones."""
        made, writer = self.batch(step), RewardWriter(self.payloads, step)
        for place, one in enumerate(made.rollouts):
            writer.add(place, np.full(3, 2 * size * one.outcome_reward - size, dtype=np.float32))
        return ScoredBatch(batch=made, process_rewards=tuple(writer.finish()), prm_version=step)

    async def cut(self, step: int, what: Batch | bytes | None = None, *, key: str | None = None) -> None:
        """Put a batch on its stream, as the coordinator does."""
        what = self.batch(step) if what is None else what
        payload = what if isinstance(what, bytes) else batch_to_proto(what).SerializeToString()
        name = str(step) if key is None else key
        await self.queue.commit(f"cut:{name}", outputs=[Output(stream=BATCHES, key=name, payload=payload)])

    async def score(self, step: int, what: ScoredBatch | bytes | None = None, *, size: float = 0.1) -> None:
        """Put a scored batch on its stream, as the PRM does."""
        what = self.scored_batch(step, size=size) if what is None else what
        payload = what if isinstance(what, bytes) else scored_batch_to_proto(what).SerializeToString()
        await self.queue.commit(f"score:{step}", outputs=[Output(stream=SCORED, key=str(step), payload=payload)])

    def train_loop(self, name: str, stream: str, settings: PrmSettings | LearnerSettings, ranks: Ranks, meter: BusyMeter) -> TrainLoop[Any]:
        trainers = trainers_of(settings.algorithm)
        return TrainLoop(name, stream, trainers, settings.run, ranks, self.queue, self.payloads, SystemClock(), meter, self.metrics)

    async def done(self) -> bool:
        """Whether the trainers hold nothing and nothing waits for them."""
        depths = [await self.queue.depth(stream) for stream in (BATCHES, SCORED)]
        return not any(depth.waiting + depth.pending for depth in depths)

    async def steps(self) -> list[CommittedStep]:
        """What the learner has committed so far, in order."""
        deliveries = await self.queue.receive_held(STEPS, "test", most=100, wait_s=0)
        return [committed_step_from_proto(pb.CommittedStep.FromString(delivery.payload)) for delivery in deliveries]


class Prm:
    """The PRM's process, without gRPC."""

    def __init__(self, run: Run, engine: type[PlainEngine] = PlainEngine) -> None:
        prm = {"learning_rate": 1e-3, "sampled_groups": 0}
        settings = PrmSettings.model_validate({**run.settings(), "prm": prm, "scoring": run.scoring})
        self.engine = engine(TokenLogprobModel(load_causal_lm(run.start), chunk_tokens=8))
        reference = FrozenModel(load_causal_lm(run.start), chunk_tokens=8)
        contents = partial(read_rollouts, run.payloads)
        references = References(reference, contents, run.payloads, settings.prm, rank=0, ranks=1, pad_id=0)
        self.prm = ImplicitPrm(self.engine, contents, references, settings.prm, pad_id=0, total_steps=STEPS_OF_RUN)
        self.serving = None
        if not settings.scoring.replicas:
            self.serving = ServingPrm(PrmCopy(FrozenModel(load_causal_lm(run.start), chunk_tokens=8)), reference, beta=0.05, pad_id=0)
        models = PrmModels(
            channel=OneRank(),
            engine=self.engine,
            prm=self.prm,
            serving=self.serving,
            tokenizer=load_tokenizer(run.start),
            end_id=2,
            longest=128,
            store=StoreWeights(str(settings.run.folder / "prm_weights"), template=run.start),
            payloads=run.payloads,
            references=references,
        )
        self.methods = PrmMethods(models, settings)
        self._run, self._settings = run, settings
        self.ranks = Ranks(models.channel, self.methods.by_name)

    async def work(self, lifecycle: Lifecycle) -> None:
        async def ready() -> None:
            self._run.ready.append(f"prm {self.prm.version}")

        if self.serving is not None:
            self.serving.fetch = partial(self.ranks.call, SERVE)

        loop: TrainLoop[Batch] = self._run.train_loop("prm", BATCHES, self._settings, self.ranks, BusyMeter())
        loop.training = TrainPrm(self._settings, loop, self.methods)
        async with self.ranks:
            await lifecycle.run(loop.run(lifecycle.stopping, ready=ready), self.ranks.watch(), loop.end_with_run(lifecycle.stopping))


class Learner:
    """The learner's process, without gRPC."""

    def __init__(self, run: Run, engine: type[PlainEngine] = PlainEngine) -> None:
        settings = LearnerSettings.model_validate({**run.settings(), "learner": {"learning_rate": 1e-3}, "store": {"keep_versions": 10}})
        self.engine = engine(TokenLogprobModel(load_causal_lm(run.start), chunk_tokens=8))
        contents = partial(read_rollouts, run.payloads)
        trainer = PolicyTrainer(self.engine, settings.algorithm, settings.learner, contents, pad_id=0, total_steps=STEPS_OF_RUN)
        self.store = StoreWeights(str(settings.run.folder / "weights"), template=run.start)
        models = LearnerModels(
            channel=OneRank(), engine=self.engine, critic_engine=None, trainer=trainer, store=self.store, payloads=run.payloads
        )
        self.methods = LearnerMethods(models, settings)
        self._run, self._settings = run, settings
        self.progress = Progress()
        self.ranks = Ranks(models.channel, self.methods.by_name)

    async def work(self, lifecycle: Lifecycle) -> None:
        async def ready() -> None:
            self._run.ready.append(f"learner {self.progress.step}")

        stream = source_of(self._settings.algorithm).stream
        loop: TrainLoop[ScoredBatch] = self._run.train_loop("learner", stream, self._settings, self.ranks, self.progress.meter)
        loop.training = TrainPolicy(self._settings, loop, self.methods, self.progress)
        async with self.ranks:
            await lifecycle.run(loop.run(lifecycle.stopping, ready=ready), self.ranks.watch(), loop.end_with_run(lifecycle.stopping))


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    write_policy(tmp_path / "model")
    made = Run(tmp_path)
    await made.queue.set_value(START_FROM, b"0")
    return made


async def eventually(reached: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        # What is waited for happens in threads and in a queue, which have no event for it.
        while not (found if isinstance(found := reached(), bool) else await found):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def never() -> bool:
    return False


async def until(reached: Callable[[], bool | Awaitable[bool]], *services: Prm | Learner) -> None:
    """Let services work until something is reached or one fails, then stop them as SIGTERM does."""
    lifecycles = [Lifecycle() for _ in services]
    works = [asyncio.create_task(service.work(lifecycle)) for service, lifecycle in zip(services, lifecycles, strict=True)]
    waiting = asyncio.create_task(eventually(reached))
    await asyncio.wait([waiting, *works], return_when=asyncio.FIRST_COMPLETED)
    for lifecycle in lifecycles:
        lifecycle.stopping.set()
    try:
        await asyncio.wait_for(asyncio.gather(*works), TIMEOUT_S)
    except BaseException:
        waiting.cancel()
        raise
    await waiting


def weights(engine: PlainEngine) -> dict[str, torch.Tensor]:
    return dict(engine.weights())


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


async def run_to_the_end(run: Run) -> tuple[Prm, Learner]:
    prm, learner = Prm(run), Learner(run)
    await until(run.done, prm, learner)
    assert learner.progress.step == STEPS_OF_RUN
    return prm, learner


def another_step(run: Run) -> bytes:
    return batch_to_proto(run.batch(4)).SerializeToString()


def odd(run: Run) -> bytes:
    """As if every token of a rollout, the prompt's too, were trained on."""
    message = batch_to_proto(run.batch(3))
    message.groups[0].rollouts[1].rollout.trained_tokens = 6
    return message.SerializeToString()


def gone(run: Run) -> bytes:
    """One of its rollouts is in no store."""
    made = run.batch(3)
    run.payloads.delete([made.rollouts[2].rollout.payload])
    return batch_to_proto(made).SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _: b"\xffno protobuf", "is no readable Batch"),
        (lambda _: batch_to_proto(Batch(step=3, groups=())).SerializeToString(), "batch 3 has no groups"),
        (another_step, "entry 3 of batches holds batch 4"),
        (odd, "6 of them trained on"),
        (gone, r"payload rollout/31:0/\S+ \(batch 3\) is gone"),
    ],
    ids=["no protobuf", "no groups", "another step", "odd", "gone"],
)
async def test_a_batch_that_cannot_be_used_costs_its_step_and_no_other(run: Run, spoil: Callable[[Run], bytes], says: str) -> None:
    bad = spoil(run)
    for step in range(1, STEPS_OF_RUN + 1):
        await run.cut(step, bad if step == 3 else None)
    prm, learner = await run_to_the_end(run)
    steps = await run.steps()
    assert [(step.step, step.weight_version) for step in steps] == [(step, step) for step in range(1, STEPS_OF_RUN + 1)]
    assert [step.metrics.get("skipped", 0.0) for step in steps] == [0, 0, 1, 0, 0]
    assert dict(steps[2].metrics) == {"skipped": 1.0}
    versions = {version: learner.store.fetch(version).directory / "model.safetensors" for version in (2, 3, 4)}
    assert versions[3].read_bytes() == versions[2].read_bytes() != versions[4].read_bytes()
    # The PRM's version and schedule belong to the step, whatever was skipped.
    assert prm.prm.version == STEPS_OF_RUN
    (letter,) = await run.queue.dead_letters()
    assert (letter.stream, letter.key, letter.payload_bytes) == (BATCHES, "3", len(bad))
    assert re.search(says, letter.reason), letter.reason


async def test_a_scored_batch_that_cannot_be_used_costs_its_step_and_no_other(run: Run) -> None:
    short = ScoredBatch(batch=run.batch(4), process_rewards=(), prm_version=4)
    # Its rollouts are there, its rewards are not.
    gone = run.scored_batch(5)
    run.payloads.delete(gone.process_rewards)
    bad = {2: b"\xff"} | {step: scored_batch_to_proto(made).SerializeToString() for step, made in ((4, short), (5, gone))}
    for step in range(1, STEPS_OF_RUN + 1):
        await run.score(step, bad.get(step))
    learner = Learner(run)
    await until(run.done, learner)
    assert [step.metrics.get("skipped", 0.0) for step in await run.steps()] == [0, 1, 0, 1, 1]
    letters = {letter.key: letter for letter in await run.queue.dead_letters()}
    assert {key: letter.payload_bytes for key, letter in letters.items()} == {str(step): len(payload) for step, payload in bad.items()}
    assert re.search(r"payload rewards/5/\S+ \(batch 5\) is gone", letters["5"].reason)
    assert (await run.queue.depth(SCORED)).pending == 0


@pytest.mark.parametrize("key", ["next", "2.0", "-1", ""])
async def test_an_entry_whose_key_is_no_step_is_set_aside_at_once(run: Run, key: str) -> None:
    await run.cut(1)
    await run.cut(2, key=key)
    await run.cut(2)
    prm, learner = Prm(run), Learner(run)
    await until(lambda: learner.progress.step == 2, prm, learner)
    assert [letter.key for letter in await run.queue.dead_letters()] == [key]
    assert [step.metrics.get("skipped", 0.0) for step in await run.steps()] == [0, 0]


async def test_a_missing_batch_ends_the_run(run: Run) -> None:
    await run.cut(1)
    await run.cut(3)
    for _ in range(2):
        # The same after a restart: nothing was lost meanwhile.
        with pytest.raises(RunEndedError, match="batches: got batch 3 after batch 1"):
            await until(never, Prm(run))


async def test_a_restart_before_the_next_checkpoint_finds_a_skipped_step_where_it_was(run: Run) -> None:
    run.checkpoint_every = STEPS_OF_RUN
    for step in range(1, 4):
        await run.cut(step, b"\xff" if step == 2 else None)
    prm, learner = Prm(run), Learner(run)
    await until(lambda: learner.progress.step == 3, prm, learner)
    # Until a checkpoint contains the step, a restart needs its entry.
    assert await run.queue.dead_letters() == []
    for step in range(4, STEPS_OF_RUN + 1):
        await run.cut(step)
    await run_to_the_end(run)
    assert [(step.step, step.metrics.get("skipped", 0.0)) for step in await run.steps()] == [(1, 0), (2, 1), (3, 0), (4, 0), (5, 0)]
    assert [letter.key for letter in await run.queue.dead_letters()] == ["2"]


def kinds(run: Run) -> dict[str, int]:
    """How many payloads of each kind are stored."""
    return Counter(name.partition("/")[0] for name in run.payloads.names())


async def test_payloads_of_a_batch_end_when_both_trainers_have_a_checkpoint_with_it_and_not_before(run: Run) -> None:
    one, two = run.batch(1), run.batch(2)
    whole = {"rollout": 8, "text": 8}
    await run.cut(1, one)
    await until(lambda: kinds(run) == whole | {"rewards": 1}, Prm(run))
    learner = Learner(run)
    await until(lambda: learner.progress.step == 1, learner)
    # Trained on; but a restart of either comes back to it.
    assert kinds(run) == whole | {"rewards": 1}
    await run.cut(2, two)
    # The PRM's checkpoint has both, the learner has none. What the PRM repeated of the first step is not kept beside what counts.
    await until(lambda: released(run, "prm", 2), Prm(run))
    assert kinds(run) == whole | {"rewards": 2}
    await until(lambda: kinds(run) == {}, Learner(run))
    assert await released(run, "learner", 2)


async def released(run: Run, trainer: str, step: int) -> bool:
    return await run.queue.value(RELEASED + trainer) == str(step).encode()


async def test_if_the_learner_s_checkpoint_comes_first_the_rewards_end_with_it_and_the_rollouts_with_the_prm_s(run: Run) -> None:
    scored_batches = {step: run.scored_batch(step) for step in (1, 2)}
    for step, made in scored_batches.items():
        await run.score(step, made)
    await until(lambda: kinds(run) == {"rollout": 8, "text": 8}, Learner(run))
    assert await released(run, "learner", 2)
    # A PRM that comes back to what it scored before: its rewards count no second time, and nobody will read them.
    for step, made in scored_batches.items():
        await run.cut(step, made.batch)
    await until(lambda: kinds(run) == {}, Prm(run))
    assert await released(run, "prm", 2)


async def test_a_run_leaves_no_payloads_but_those_of_a_batch_that_is_a_dead_letter(run: Run) -> None:
    batches = [run.batch(step) for step in range(1, STEPS_OF_RUN + 1)]
    for made in batches:
        await run.cut(made.step, made)
    lost = batches[2].rollouts[1].rollout.text
    run.payloads.delete([lost])
    kept = set(payload_names(batches[2])) - {lost}
    await until(lambda: set(run.payloads.names()) == kept, Prm(run), Learner(run))
    assert [letter.key for letter in await run.queue.dead_letters()] == ["3"]
    assert await run.done()


@pytest.mark.parametrize("service", [Prm, Learner])
async def test_a_payload_that_is_not_what_its_record_says_ends_the_run_and_is_named(run: Run, service: type[Prm | Learner]) -> None:
    made = run.scored_batch(1)
    one, other = (verified.rollout.payload for verified in made.batch.rollouts[:2])
    mixed_up = scored_batch_to_proto(made)
    mixed_up.batch.groups[0].rollouts[0].rollout.payload = other
    await run.cut(1, mixed_up.batch.SerializeToString())
    await run.score(1, mixed_up.SerializeToString())
    with capture_logs() as logs, pytest.raises(RunEndedError, match=r"^train step 1: ") as ended:
        await until(never, service(run))
    said = [str(entry.get("reason")) for entry in logs] + [str(ended.value)]
    assert any(f"payload {other} holds" in text and one not in text for text in said), said
    assert await run.steps() == []


class SlowEngine(PlainEngine):
    """Its optimizer step waits until the test lets it go on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def train_step(self, *arguments: Any, **options: Any) -> float:
        self.begun.set()
        assert self.may_go_on.wait(TIMEOUT_S)
        return super().train_step(*arguments, **options)


async def test_a_stop_in_the_middle_of_a_batch_neither_loses_nor_repeats_it(run: Run, tmp_path: Path) -> None:
    untouched = Run(tmp_path / "other")
    write_policy(untouched.start)
    await untouched.queue.set_value(START_FROM, b"0")
    for step in range(1, STEPS_OF_RUN + 1):
        await run.cut(step)
        await untouched.cut(step)
    stopped = Learner(run, SlowEngine)
    slow = stopped.engine
    assert isinstance(slow, SlowEngine)

    def stop_now() -> bool:
        if slow.begun.is_set():
            # After the stop, as a long call ends when it ends.
            threading.Timer(0.3, slow.may_go_on.set).start()
        return slow.begun.is_set()

    await until(stop_now, Prm(run), stopped)
    assert stopped.progress.step == 0
    assert await run.steps() == []
    assert (await run.queue.depth(SCORED)).pending == 1
    _, learner = await run_to_the_end(run)
    _, straight = await run_to_the_end(untouched)
    assert [step.step for step in await run.steps()] == list(range(1, STEPS_OF_RUN + 1))
    assert same(weights(learner.engine), weights(straight.engine))


class DeafQueue(MemoryQueue):
    """From some moment on it never answers a commit."""

    deaf = False

    async def commit(self, mark: str, **what: Any) -> Committed:
        if self.deaf:
            raise QueueUnavailableError("the queue does not answer")
        return await super().commit(mark, **what)


async def test_a_queue_that_is_gone_for_good_does_not_keep_a_service_from_stopping(run: Run) -> None:
    queue = DeafQueue(SystemClock())
    run.queue = queue
    await queue.set_value(START_FROM, b"0")
    await run.cut(1)
    queue.deaf = True
    prm = Prm(run)
    began = time.monotonic()
    await until(lambda: prm.prm.version == 1 and time.monotonic() - began > 1, prm)
    assert time.monotonic() - began < 10
    queue.deaf = False
    await run.cut(2)
    again, learner = Prm(run), Learner(run)
    await until(lambda: learner.progress.step == 2, again, learner)
    assert [step.step for step in await run.steps()] == [1, 2]


class ForgetfulQueue(MemoryQueue):
    """Does what it is asked, but the first answer to each question gets lost."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self._asked: set[object] = set()

    async def commit(self, mark: str, **what: Any) -> Committed:
        answer = await super().commit(mark, **what)
        self._lose(mark)
        return answer

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        await super().acknowledge(deliveries)
        if deliveries:
            self._lose(tuple(deliveries))

    async def dead_letter(self, delivery: Delivery, **what: Any) -> None:
        await super().dead_letter(delivery, **what)
        self._lose(delivery)

    def _lose(self, question: object) -> None:
        if question not in self._asked:
            self._asked.add(question)
            raise QueueUnavailableError("the answer was lost")


async def test_lost_answers_repeat_nothing_that_counts(run: Run) -> None:
    queue = ForgetfulQueue()
    await queue.set_value(START_FROM, b"0")
    run.queue = queue
    for step in range(1, STEPS_OF_RUN + 1):
        with contextlib.suppress(QueueUnavailableError):
            await run.cut(step, b"\xff" if step == 3 else None)
    await run_to_the_end(run)
    assert [(step.step, step.metrics.get("skipped", 0.0)) for step in await run.steps()] == [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0)]
    assert [letter.key for letter in await run.queue.dead_letters()] == ["3"]


async def version_that_scores(prm: Prm) -> int:
    family = PromptFamily(prompt_ids=np.asarray([3], dtype=np.int32), responses=(np.asarray([6, 7], dtype=np.int32),))
    assert prm.serving is not None
    async with prm.serving.using(None) as model:
        return model.score([family], 16)[1]


async def test_the_prm_publishes_its_versions_for_replicas_and_takes_back_those_of_steps_that_are_repeated(run: Run) -> None:
    run.scoring = {"replicas": 1, "versions": 2}
    for step in range(1, 4):
        await run.cut(step)
    prm = Prm(run)
    store = prm.methods.models.store
    assert prm.serving is None
    # That of checkpoint 2 and the newest two, so 1 has gone.
    await until(lambda: store.versions() == [2, 3], prm)
    prm.methods.load(prm.methods.newest_checkpoint())
    assert store.versions() == [2]


class ExportingEngine(PlainEngine):
    """Counts how often its weights are copied for requests."""

    exports = 0

    def weights(self, *, master: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        self.exports += 1
        return super().weights(master=master)

    def published_weights(self, *, master: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        return super().weights(master=master)


async def test_weights_are_copied_for_requests_only_where_somebody_asks(run: Run) -> None:
    prm = Prm(run, ExportingEngine)
    engine, lifecycle = prm.engine, Lifecycle()
    assert isinstance(engine, ExportingEngine)
    work = asyncio.create_task(prm.work(lifecycle))

    async def trained(step: int) -> int:
        """How often weights were copied once the step is done."""
        await run.cut(step)
        await eventually(lambda: prm.serving is not None and prm.serving.newest == step)
        return engine.exports

    assert [await trained(1), await trained(2)] == [0, 0]
    assert [await version_that_scores(prm), await version_that_scores(prm)] == [2, 2]
    assert engine.exports == 1
    # Somebody asked before step 3, so its version is there at once; nobody asked before step 4.
    assert await trained(3) == 2
    assert await trained(4) == 2
    assert await version_that_scores(prm) == 4
    assert engine.exports == 3
    assert prm.serving is not None
    copied = prm.serving._copy.model._causal_lm.state_dict()
    assert all(torch.equal(copied[name], tensor) for name, tensor in weights(engine).items())
    lifecycle.stopping.set()
    await work


async def test_the_prm_is_ready_once_the_weights_of_the_run_are_loaded_and_not_before(run: Run) -> None:
    for step in range(1, 4):
        await run.cut(step)
    prm = Prm(run)
    await until(lambda: prm.prm.version == 3, prm)
    run.ready.clear()
    # A new process of a run whose state the coordinator has not settled yet.
    run.queue = MemoryQueue(SystemClock())
    again = Prm(run)
    lifecycle = Lifecycle()
    work = asyncio.create_task(again.work(lifecycle))
    await asyncio.sleep(0.3)
    assert run.ready == []
    with pytest.raises(NotReadyError, match="has not loaded the weights of this run yet"):
        await version_that_scores(again)
    await run.queue.set_value(START_FROM, b"2")
    await eventually(lambda: bool(run.ready))
    # The checkpoint of step 2 is what it had when it said so.
    assert run.ready == ["prm 2"]
    assert await version_that_scores(again) >= 2
    lifecycle.stopping.set()
    await work


class FaultyEngine(PlainEngine):
    """Its second optimizer step has a gradient that is no number, as `DeepSpeedEngine` says it."""

    steps = 0

    def train_step(self, *arguments: Any, **options: Any) -> float:
        self.steps += 1
        if self.steps % 2 == 0:
            raise RunEndedError("the gradient norm of the model is nan")
        return super().train_step(*arguments, **options)


@pytest.mark.parametrize("service", [Prm, Learner])
async def test_a_step_that_cannot_be_taken_ends_the_run_with_its_number_and_again_after_a_restart(
    run: Run, service: type[Prm | Learner]
) -> None:
    for step in range(1, 4):
        await run.cut(step)
        await run.score(step)
    run.checkpoint_every = STEPS_OF_RUN
    for _ in range(2):
        with pytest.raises(RunEndedError, match=r"^train step 2: the gradient norm of the model is nan$"):
            await until(never, service(run, FaultyEngine))
    assert [step.step for step in await run.steps()] == ([1] if service is Learner else [])


async def test_rewards_that_are_no_numbers_never_reach_the_learner(run: Run) -> None:
    await run.cut(1)
    prm = Prm(run)
    with torch.no_grad():
        next(iter(prm.engine.model.trained.parameters()))[7] = torch.nan
    with pytest.raises(RunEndedError, match=r"^train step 1: a process reward of rollout 10:0 is nan"):
        await until(never, prm)
    assert (await run.queue.depth(SCORED)).waiting == 0


async def test_a_repeated_step_that_differs_from_its_published_version_is_said(run: Run) -> None:
    run.checkpoint_every = STEPS_OF_RUN
    await run.score(1)
    first = Learner(run)
    await until(lambda: first.progress.step == 1, first)
    published = (first.store.fetch(1).directory / "model.safetensors").read_bytes()
    again, odd = Learner(run), Learner(run)
    with capture_logs() as logs:
        await until(lambda: again.progress.step == 1, again)
    assert [entry for entry in logs if entry["event"] == "published_weights_differ"] == []
    with torch.no_grad():
        next(iter(odd.engine.model.trained.parameters())).add_(1e-3)
    with capture_logs() as logs:
        await until(lambda: odd.progress.step == 1, odd)
    warning = next(entry for entry in logs if entry["event"] == "published_weights_differ")
    assert (warning["weight_version"], warning["log_level"]) == (1, "warning")
    assert 0 < warning["tensors"] <= warning["of"]
    assert (odd.store.fetch(1).directory / "model.safetensors").read_bytes() == published


async def other_run(folder: Path, **changes: Any) -> Run:
    made = Run(folder, **changes)
    write_policy(made.start)
    await made.queue.set_value(START_FROM, b"0")
    return made


async def test_without_a_prm_the_learner_takes_the_batches_and_trains_as_on_rewards_of_zero(run: Run, tmp_path: Path) -> None:
    run.algorithm = {"process_weight": 0.0}
    zeros = await other_run(tmp_path / "zeros")
    unusable = scored_batch_to_proto(ScoredBatch(batch=Batch(step=4, groups=()), process_rewards=(), prm_version=4)).SerializeToString()
    for step in range(1, STEPS_OF_RUN + 1):
        await run.cut(step, b"\xff" if step == 4 else None)
        await zeros.score(step, unusable if step == 4 else None, size=0.0)
    # A stop between two checkpoints: the next process repeats step 3 from the entry that this one held.
    stopped = Learner(run)
    await until(lambda: stopped.progress.step >= 3, stopped)
    learner, scored = Learner(run), Learner(zeros)
    await until(run.done, learner)
    await until(zeros.done, scored)
    steps = await run.steps()
    assert [(step.step, step.metrics.get("skipped", 0.0)) for step in steps] == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 0)]
    assert [(letter.stream, letter.key) for letter in await run.queue.dead_letters()] == [(BATCHES, "4")]
    assert same(weights(learner.engine), weights(scored.engine))
    assert not same(weights(learner.engine), weights(Learner(await other_run(tmp_path / "new")).engine))
    for mine, theirs in zip(steps, await zeros.steps(), strict=True):
        assert [name for name in mine.metrics if "prm" in name or name.startswith("process_return")] == []
        shared = {name: value for name, value in mine.metrics.items() if "seconds" not in name and not name.startswith("wait_s")}
        assert {name: theirs.metrics[name] for name in shared} == shared


async def test_trainers_end_with_their_run_with_the_last_checkpoint_saved_and_a_second_start_ends_too(run: Run) -> None:
    run.when_finished = "exit"
    for step in range(1, STEPS_OF_RUN + 1):
        await run.cut(step)
    # As if the coordinator were ahead of them.
    await say_finished(run.queue, STEPS_OF_RUN, SystemClock())
    for _ in range(2):
        services = (Prm(run), Learner(run))
        await asyncio.wait_for(asyncio.gather(*(service.work(Lifecycle()) for service in services)), TIMEOUT_S)
    released = await run.queue.values(RELEASED)
    assert set(released.values()) == {str(STEPS_OF_RUN).encode()}
    assert [step.step for step in await run.steps()] == list(range(1, STEPS_OF_RUN + 1))
