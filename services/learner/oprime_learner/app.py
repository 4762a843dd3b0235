"""Builds the learner service."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import structlog
from transformers import PreTrainedTokenizerBase

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import CommittedStep
from oprime.lm.checkpoints import CRITIC, begin_part, checkpoint_root, complete_part, newest_for_run, verify_part
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.lm.tokenizers import load_tokenizer, pad_token_id, same_tokenizer
from oprime.ports import SCORED, STEPS, Delivery, Output, WeightStore
from oprime.runtime.consume import patiently
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import report_heartbeats
from oprime.runtime.in_order import CheckpointPlan, wait_for_start, work_in_order
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.wire.codec import committed_step_to_proto, scored_batch_from_proto
from oprime_learner.config import LearnerSettings
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.ledger import ledger_moves
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.publish import versions_to_keep
from oprime_learner.servicer import LearnerServicer, Progress
from oprime_proto.v1 import common_pb2 as pb
from oprime_proto.v1.learner_pb2_grpc import add_LearnerServiceServicer_to_server

log = structlog.get_logger()

CONSUMER = "learner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What every rank holds."""

    engine: DeepSpeedEngine
    critic_engine: DeepSpeedEngine | None
    """PPO's."""
    trainer: PolicyTrainer
    store: WeightStore

    @property
    def parts(self) -> dict[str, DeepSpeedEngine]:
        """What a checkpoint of this service holds, by name."""
        return {"policy": self.engine} | ({} if self.critic_engine is None else {CRITIC: self.critic_engine})


async def serve(settings: LearnerSettings, lifecycle: Lifecycle) -> None:
    models = await asyncio.to_thread(build_models, settings)
    methods = RankMethods(models, settings)
    ranks = Ranks(models.engine, {"process": methods.process, "publish": methods.publish, "save": methods.save, "load": methods.load})
    if models.engine.rank != 0:
        await asyncio.to_thread(ranks.follow)
        return
    clock = SystemClock()
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    progress = Progress()
    server = GrpcServer(settings.endpoints.listen("learner"), reflection=settings.endpoints.reflection)
    server.add(add_LearnerServiceServicer_to_server, LearnerServicer(progress), "oprime_proto.v1.LearnerService")
    await server.start()
    await server.set_serving(True)
    try:
        await lifecycle.run(
            train(settings, ranks, models, queue, clock, progress, lifecycle.stopping),
            ranks.stay_in_touch(),
            report_heartbeats(
                queue,
                "learner/0",
                lambda: {**progress.meter.read(), "step": progress.step},
                every_s=settings.run.heartbeat_s,
                stopping=lifecycle.stopping,
            ),
        )
    finally:
        await server.stop()
        await ranks.stop()
        await queue.close()


async def train(
    settings: LearnerSettings,
    ranks: Ranks,
    models: Models,
    queue: RedisQueue,
    clock: SystemClock,
    progress: Progress,
    stopping: asyncio.Event,
) -> None:
    """Load the newest checkpoint, make sure its weights are published, then train batch after batch."""
    await wait_for_start(queue, clock, stopping)
    progress.step = await ranks.call("load")
    waiting_since = clock.now()

    async def handle(step: int, delivery: Delivery) -> None:
        nonlocal waiting_since
        began = clock.now()
        with progress.meter:
            metrics: dict[str, float] = await ranks.call("process", delivery.payload)
            trained = clock.now()
            await ranks.call("publish", str(step).encode())
        scored = scored_batch_from_proto(pb.ScoredBatch.FromString(delivery.payload))
        metrics = {
            **scored.metrics,
            **metrics,
            "seconds_learner": trained - began,
            "seconds_publish": clock.now() - trained,
            "wait_s_learner": began - waiting_since,
        }
        committed = CommittedStep(step=step, weight_version=step, metrics=metrics)
        output = Output(stream=STEPS, key=str(step), payload=committed_step_to_proto(committed).SerializeToString())
        await patiently(lambda: queue.commit(f"train:{step}", outputs=[output], moves=ledger_moves(scored.batch)), clock)
        progress.step = step
        progress.trained_tokens += int(metrics["trained_tokens"])
        log.info("train_step", step=step, seconds=round(clock.now() - began, 3), loss=metrics["policy_loss"])
        await prune(settings, models.store, queue, clock)
        waiting_since = clock.now()

    async def save(step: int) -> None:
        with progress.meter:
            await ranks.call("save", str(step).encode())

    await work_in_order(
        queue,
        SCORED,
        CONSUMER,
        done_step=progress.step,
        handle=handle,
        save=save,
        plan=CheckpointPlan(every=settings.run.checkpoint_every, last=settings.run.steps),
        clock=clock,
        stopping=stopping,
    )


async def prune(settings: LearnerSettings, store: WeightStore, queue: RedisQueue, clock: SystemClock) -> None:
    """Remove weight versions that no checkpoint, replica or live rollout needs."""
    replicas = await patiently(lambda: queue.values("generator/"), clock)
    in_use = [int(json.loads(report)["weight_version"]) for report in replicas.values()]
    keep = versions_to_keep(checkpoint_root(settings.run.folder), in_use)
    newest = max(settings.store.keep_versions, settings.staleness.max_staleness + 2)
    await asyncio.to_thread(store.prune, keep, newest)


class RankMethods:
    """What all ranks do together."""

    def __init__(self, models: Models, settings: LearnerSettings) -> None:
        self._models = models
        self._settings = settings
        self._root = checkpoint_root(settings.run.folder)

    def process(self, payload: bytes) -> dict[str, float]:
        """Train on one scored batch."""
        return self._models.trainer.process(scored_batch_from_proto(pb.ScoredBatch.FromString(payload)))

    def publish(self, payload: bytes) -> None:
        """Make the weights after step `payload` exist as a version; one that exists already stays as it is."""
        version = int(payload)
        weights = self._models.engine.weights()
        if self._models.engine.rank == 0:
            self._models.store.publish(version, weights, parent=version - 1)
        for _ in weights:
            pass

    def save(self, payload: bytes) -> None:
        """Checkpoint after step `payload`."""
        for name, engine in self._models.parts.items():
            own = str(begin_part(self._root, int(payload), name)).encode() if engine.rank == 0 else None
            part = Path(engine.broadcast(own).decode())
            engine.save(part)
            if engine.rank == 0:
                complete_part(part, int(payload))

    def load(self, _: bytes) -> int:
        """Load the newest checkpoint and publish its weights if need be; returns its step, 0 without one."""
        newest = newest_for_run(self._root, tuple(self._models.parts))
        if newest is None:
            if self._models.engine.rank == 0:
                self._models.store.publish_directory(0, model_directory(self._settings.model.path))
            return 0
        step, directory = newest
        for name, engine in self._models.parts.items():
            verify_part(directory / name)
            engine.load(directory / name)
        self.publish(str(step).encode())
        log.info("checkpoint_loaded", step=step)
        return step


def build_models(settings: LearnerSettings) -> Models:
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    model = load_causal_lm(
        settings.model.path,
        attention=settings.model.attention,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        trust_remote_code=settings.model.trust_remote_code,
    )
    # The policy is what sampled the rollouts, and so is the start that its KL is measured from: both after temperature.
    scored = TokenLogprobModel(
        model, settings.learner.logprob_chunk_tokens, packing=settings.learner.packing, temperature=settings.sampling.temperature
    )
    engine = DeepSpeedEngine(scored, settings.learner, dtype=settings.model.dtype)
    pad_id, steps = pad_token_id(tokenizer), settings.run.steps
    critic_engine = _critic_engine(settings, tokenizer) if settings.algorithm.needs_critic else None
    trainer = PolicyTrainer(
        engine,
        settings.algorithm,
        settings.learner,
        pad_id=pad_id,
        total_steps=steps,
        reference=_kl_reference(settings, engine) if settings.algorithm.kl_coefficient > 0 else None,
        critic=CriticTrainer(critic_engine, settings.algorithm, settings.critic, pad_id=pad_id, total_steps=steps)
        if critic_engine
        else None,
    )
    url = settings.store.url or str(settings.run.folder / "weights")
    store = StoreWeights(url, template=model_directory(settings.model.path), dtype=settings.model.dtype)
    return Models(engine=engine, critic_engine=critic_engine, trainer=trainer, store=store)


def _critic_engine(settings: LearnerSettings, tokenizer: PreTrainedTokenizerBase) -> DeepSpeedEngine:
    """PPO's critic, in the processes of the policy."""
    path = settings.critic.path or settings.model.path
    if settings.critic.path:
        difference = same_tokenizer(tokenizer, load_tokenizer(path, trust_remote_code=settings.model.trust_remote_code))
        if difference is not None:
            raise SettingsError(
                f"critic.path ({path}) has another tokenizer than model.path ({settings.model.path}): {difference}; the critic reads the "
                "policy's own tokens, so both must share one"
            )
    model = load_causal_lm(
        path,
        attention=settings.model.attention,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        trust_remote_code=settings.model.trust_remote_code,
    )
    values = TokenValueModel(model, packing=settings.critic.packing)
    return DeepSpeedEngine(values, settings.learner.training(settings.critic), dtype=settings.model.dtype)


def _kl_reference(settings: LearnerSettings, engine: DeepSpeedEngine) -> FrozenModel:
    """The model that the run started from, whole on every rank."""
    model = load_causal_lm(
        settings.model.path,
        dtype=settings.model.dtype,
        attention=settings.model.attention,
        device=engine.device,
        trust_remote_code=settings.model.trust_remote_code,
    )
    return FrozenModel(
        model,
        chunk_tokens=settings.learner.logprob_chunk_tokens,
        packing=settings.learner.packing,
        temperature=settings.sampling.temperature,
    )
