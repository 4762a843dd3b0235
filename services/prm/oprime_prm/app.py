"""Builds the PRM service."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import ScoredBatch
from oprime.lm.checkpoints import begin_part, checkpoint_root, complete_part, newest_complete, verify_part
from oprime.lm.frozen import FrozenModel
from oprime.lm.models import load_causal_lm
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id, same_tokenizer
from oprime.ports import BATCHES, SCORED, Delivery, Output, WeightStore
from oprime.runtime.consume import patiently
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import BusyMeter, report_heartbeats
from oprime.runtime.in_order import CheckpointPlan, wait_for_start, work_in_order
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.wire.codec import batch_from_proto, scored_batch_to_proto
from oprime_prm.config import PrmSettings
from oprime_prm.implicit_prm import ImplicitPrm, Scored
from oprime_prm.samples import write_samples
from oprime_prm.score import Scorer
from oprime_prm.servicer import PrmServicer
from oprime_prm.serving import ServingPrm
from oprime_proto.v1 import common_pb2 as pb
from oprime_proto.v1.prm_pb2_grpc import add_PrmServiceServicer_to_server

log = structlog.get_logger()

CONSUMER = "prm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What every rank holds."""

    engine: DeepSpeedEngine
    prm: ImplicitPrm
    serving: ServingPrm | None
    """On rank 0."""
    tokenizer: PreTrainedTokenizerBase
    end_id: int
    longest: int
    store: WeightStore
    """Published PRM versions, one per checkpoint."""


async def serve(settings: PrmSettings, lifecycle: Lifecycle) -> None:
    models = await asyncio.to_thread(build_models, settings)
    methods = RankMethods(models, settings)
    ranks = Ranks(models.engine, {"process": methods.process, "save": methods.save, "load": methods.load})
    if models.engine.rank != 0:
        await asyncio.to_thread(ranks.follow)
        return
    assert models.serving is not None  # noqa: S101 - rank 0 has one
    clock = SystemClock()
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    meter = BusyMeter()
    scorer = Scorer(models.serving, models.tokenizer, end_id=models.end_id, longest=models.longest, max_items=settings.prm.max_score_items)
    server = GrpcServer(settings.endpoints.listen("prm"), reflection=settings.endpoints.reflection)
    servicer = PrmServicer(scorer, models.serving, meter, model=settings.prm.initial_model or settings.model.path, beta=settings.prm.beta)
    server.add(add_PrmServiceServicer_to_server, servicer, "oprime_proto.v1.PrmService")
    await server.start()
    await server.set_serving(True)
    try:
        await lifecycle.run(
            train(settings, ranks, methods, queue, clock, meter, lifecycle.stopping),
            ranks.stay_in_touch(),
            report_heartbeats(
                queue,
                "prm/0",
                lambda: {**meter.read(), "prm_version": models.prm.version},
                every_s=settings.run.heartbeat_s,
                stopping=lifecycle.stopping,
            ),
        )
    finally:
        await server.stop()
        await ranks.stop()
        await queue.close()


async def train(
    settings: PrmSettings,
    ranks: Ranks,
    methods: "RankMethods",
    queue: RedisQueue,
    clock: SystemClock,
    meter: BusyMeter,
    stopping: asyncio.Event,
) -> None:
    """Load the newest checkpoint, then update and score batch after batch."""
    await wait_for_start(queue, clock, stopping)
    done_step = await ranks.call("load")
    waiting_since = clock.now()

    async def handle(step: int, delivery: Delivery) -> None:
        nonlocal waiting_since
        began = clock.now()
        with meter:
            scored: Scored = await ranks.call("process", delivery.payload)
        batch = batch_from_proto(pb.Batch.FromString(delivery.payload))
        metrics = {**scored.metrics, "seconds_prm": clock.now() - began, "wait_s_prm": began - waiting_since}
        result = ScoredBatch(
            batch=batch,
            process_rewards=scored.process_rewards,
            prm_version=scored.prm_version,
            baseline_process_rewards=scored.baseline_process_rewards,
            metrics=metrics,
        )
        output = Output(stream=SCORED, key=str(step), payload=scored_batch_to_proto(result).SerializeToString())
        await patiently(lambda: queue.commit(f"score:{step}", outputs=[output]), clock)
        log.info("batch_scored", step=step, prm_version=scored.prm_version, seconds=metrics["seconds_prm"])
        await asyncio.to_thread(
            write_samples,
            settings.run.folder / "samples",
            step,
            methods.models.tokenizer,
            batch.rollouts,
            scored.process_rewards,
            prm_version=scored.prm_version,
            groups=settings.prm.sampled_groups,
        )
        waiting_since = clock.now()

    async def save(step: int) -> None:
        with meter:
            await ranks.call("save", str(step).encode())

    await work_in_order(
        queue,
        BATCHES,
        CONSUMER,
        done_step=done_step,
        handle=handle,
        save=save,
        plan=CheckpointPlan(every=settings.run.checkpoint_every, last=settings.run.steps),
        clock=clock,
        stopping=stopping,
    )


class RankMethods:
    """What all ranks do together."""

    def __init__(self, models: Models, settings: PrmSettings) -> None:
        self.models = models
        self._settings = settings
        self._root = checkpoint_root(settings.run.folder)

    def process(self, payload: bytes) -> Scored:
        """Update on a batch and score it; then let requests see the new version."""
        scored = self.models.prm.process(batch_from_proto(pb.Batch.FromString(payload)))
        self._refresh()
        return scored

    def save(self, payload: bytes) -> None:
        """Checkpoint after step `payload`, and publish the PRM of that step in Hugging Face form."""
        step = int(payload)
        own = str(begin_part(self._root, step, "prm")).encode() if self.models.engine.rank == 0 else None
        part = Path(self.models.engine.broadcast(own).decode())
        self.models.engine.save(part)
        if self.models.engine.rank == 0:
            (part / "prm.json").write_text(json.dumps(self.models.prm.state()), encoding="utf-8")
            complete_part(part, step)
            self.models.store.publish(step, self.models.engine.weights(), parent=None)
            self.models.store.prune(keep=set(), newest=self._settings.run.keep_checkpoints)
        else:
            exhaust(self.models.engine.weights())

    def load(self, _: bytes) -> int:
        """Load the newest checkpoint; returns its step, 0 without one."""
        newest = newest_complete(self._root, ("prm",))
        if newest is None:
            self._refresh()
            return 0
        step, part = newest[0], newest[1] / "prm"
        verify_part(part)
        self.models.engine.load(part)
        self.models.prm.load_state(json.loads((part / "prm.json").read_text(encoding="utf-8")))
        self._refresh()
        log.info("checkpoint_loaded", step=step)
        return step

    def _refresh(self) -> None:
        if self.models.serving is not None:
            self.models.serving.refresh(self.models.engine.weights(), self.models.prm.version)
        else:
            exhaust(self.models.engine.weights())


def exhaust(weights: Iterator[tuple[str, Tensor]]) -> None:
    """Take part in a collective export whose tensors another rank uses."""
    for _ in weights:
        pass


def build_models(settings: PrmSettings) -> Models:
    path = settings.prm.initial_model or settings.model.path
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    _require_the_same_tokenizer(settings, tokenizer)
    model = load_causal_lm(
        path,
        attention=settings.model.attention,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        trust_remote_code=settings.model.trust_remote_code,
    )
    longest = int(model.config.max_position_embeddings)
    scored = TokenLogprobModel(model, settings.prm.logprob_chunk_tokens, packing=settings.prm.packing)
    engine = DeepSpeedEngine(scored, settings.prm, dtype=settings.model.dtype)
    own_reference = settings.prm.reference == "sft"
    # Where the policy is the reference, only requests need a frozen one: it has sampled no log-probs for them.
    reference = _frozen(settings, settings.prm.reference_model or path, engine) if own_reference or engine.rank == 0 else None
    pad_id = pad_token_id(tokenizer)
    serving = None
    if engine.rank == 0 and reference is not None:
        serving = ServingPrm(
            _frozen(settings, path, engine),
            reference,
            beta=settings.prm.beta,
            pad_id=pad_id,
            rows_per_pass=settings.prm.micro_batch_rollouts,
        )
    return Models(
        engine=engine,
        prm=ImplicitPrm(engine, reference if own_reference else None, settings.prm, pad_id=pad_id, total_steps=settings.run.steps),
        serving=serving,
        tokenizer=tokenizer,
        end_id=end_token_ids(tokenizer, settings.model.path)[0],
        longest=longest,
        store=StoreWeights(str(settings.run.folder / "prm_weights"), template=model_directory(path), dtype=settings.model.dtype),
    )


def _require_the_same_tokenizer(settings: PrmSettings, tokenizer: PreTrainedTokenizerBase) -> None:
    for setting in ("initial_model", "reference_model"):
        path: str = getattr(settings.prm, setting)
        if not path:
            continue
        difference = same_tokenizer(tokenizer, load_tokenizer(path, trust_remote_code=settings.model.trust_remote_code))
        if difference is not None:
            raise SettingsError(
                f"prm.{setting} ({path}) has another tokenizer than model.path ({settings.model.path}): {difference}; "
                "PRM and reference score the policy's own tokens, so all must share one"
            )


def _frozen(settings: PrmSettings, path: str, engine: DeepSpeedEngine) -> FrozenModel:
    model = load_causal_lm(
        path,
        dtype=settings.model.dtype,
        attention=settings.model.attention,
        device=engine.device,
        trust_remote_code=settings.model.trust_remote_code,
    )
    return FrozenModel(model, chunk_tokens=settings.prm.logprob_chunk_tokens, packing=settings.prm.packing)
