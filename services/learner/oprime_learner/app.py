"""Builds the learner service."""

from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.nccl_sender import NcclSender
from oprime.adapters.observed import observed
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import ScoredBatch
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import adapter_files, add_adapter, base_dtype, require_published_under_own_names, twin
from oprime.lm.models import load_causal_lm, seed_process
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.token_values import TokenValueModel
from oprime.lm.tokenizers import load_tokenizer, pad_token_id, same_tokenizer
from oprime.ports import Metrics, Payloads
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import BusyMeter, report_heartbeats
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.runtime.rollout_payloads import read_rollouts
from oprime.runtime.setting_rules import trainers_of
from oprime.runtime.train_loop import TrainLoop
from oprime_learner.config import LearnerSettings
from oprime_learner.critic_trainer import CriticTrainer
from oprime_learner.policy_trainer import PolicyTrainer
from oprime_learner.rank_methods import Models, RankMethods
from oprime_learner.servicer import LearnerServicer, Progress
from oprime_learner.source import source_of
from oprime_learner.train import CONSUMER, TrainPolicy
from oprime_proto.v1.learner_pb2_grpc import add_LearnerServiceServicer_to_server


async def serve(settings: LearnerSettings, lifecycle: Lifecycle) -> None:
    # Before the models: loading them takes long, and the process is alive meanwhile.
    with observed("learner", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        payloads = open_payloads(settings.payloads, settings.queue, settings.run.name)
        models = await lifecycle.before_serving(build_models, settings, payloads)
        methods = RankMethods(models, settings)
        ranks = Ranks(models.channel, methods.by_name)
        if models.channel.rank != 0:
            await ranks.follow()
            return
        async with ranks:
            await _lead(settings, lifecycle, ranks, methods, metrics)


async def _lead(settings: LearnerSettings, lifecycle: Lifecycle, ranks: Ranks, methods: RankMethods, metrics: Metrics) -> None:
    """Rank 0's part: queue, requests, and calls to all ranks."""
    clock, progress = SystemClock(), Progress(meter=BusyMeter(metrics))
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    server = GrpcServer.of(settings.endpoints, "learner", on_serving=lifecycle.note_ready)
    server.add(add_LearnerServiceServicer_to_server, LearnerServicer(progress), "oprime_proto.v1.LearnerService")
    loop: TrainLoop[ScoredBatch] = TrainLoop(
        CONSUMER,
        source_of(settings.algorithm).stream,
        trainers_of(settings.algorithm),
        settings.run,
        ranks,
        queue,
        methods.models.payloads,
        clock,
        progress.meter,
        metrics,
    )
    loop.training = TrainPolicy(settings, loop, methods, progress)
    try:
        await server.start()
        await lifecycle.run(
            loop.run(lifecycle.stopping, ready=partial(server.set_serving, True)),
            loop.end_with_run(lifecycle.stopping),
            ranks.stay_in_touch(),
            ranks.watch(),
            loop.lease.keep(),
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
        await queue.close()


def build_models(settings: LearnerSettings, payloads: Payloads) -> Models:
    seed_process(settings.run.seed)
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    lora = settings.learner.lora
    model = load_causal_lm(
        settings.model.path,
        dtype=base_dtype(lora, settings.model.dtype),
        attention=settings.model.attention,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        trust_remote_code=settings.model.trust_remote_code,
        longest=settings.sampling.most_tokens,
    )
    # ZeRO 3 leaves a rank no whole weights that another model could share.
    start = twin(model) if lora.rank and settings.learner.zero_stage < 3 else None
    if lora.rank:
        add_adapter(model, lora, seed=settings.run.seed, setting="learner.lora")
    # The policy is what sampled the rollouts, and so is the start that its KL is measured from: both after temperature.
    scored = TokenLogprobModel(
        model, settings.learner.logprob_chunk_tokens, packing=settings.learner.packing, temperature=settings.sampling.temperature
    )
    engine = DeepSpeedEngine(scored, settings.learner, dtype=settings.model.dtype, name="policy")
    pad_id, steps = pad_token_id(tokenizer), settings.run.steps
    critic_engine = _critic_engine(settings, tokenizer) if settings.algorithm.needs_critic else None
    trainer = PolicyTrainer(
        engine,
        settings.algorithm,
        settings.learner,
        partial(read_rollouts, payloads),
        pad_id=pad_id,
        total_steps=steps,
        reference=_kl_reference(settings, engine, start) if settings.algorithm.kl_coefficient > 0 else None,
        critic=CriticTrainer(critic_engine, settings.algorithm, settings.critic, total_steps=steps) if critic_engine else None,
        max_response_tokens=settings.sampling.max_response_tokens,
    )
    url = settings.store.url or str(settings.run.folder / "weights")
    if lora.publishes_adapters:
        require_published_under_own_names(model, "learner.lora")
    directory = model_directory(settings.model.path)
    store = StoreWeights(
        url,
        template=directory,
        dtype=settings.model.dtype,
        full_every=settings.store.full_every,
        adapter_files=adapter_files(model, directory, settings.model.path) if lora.publishes_adapters and engine.rank == 0 else None,
    )
    return Models(
        channel=engine.group,
        engine=engine,
        critic_engine=critic_engine,
        trainer=trainer,
        store=store,
        payloads=payloads,
        sender=NcclSender() if settings.store.transfer == "nccl" else None,
    )


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
        longest=settings.sampling.most_tokens,
    )
    values = TokenValueModel(model, packing=settings.critic.packing)
    return DeepSpeedEngine(values, settings.learner.training(settings.critic), dtype=settings.model.dtype, name="critic")


def _kl_reference(settings: LearnerSettings, engine: DeepSpeedEngine, start: PreTrainedModel | None) -> FrozenModel:
    """The model that the run started from, whole on every rank: `start`, if it is in memory below the policy's adapters."""
    model = start or load_causal_lm(
        settings.model.path,
        dtype=settings.model.dtype,
        attention=settings.model.attention,
        trust_remote_code=settings.model.trust_remote_code,
        longest=settings.sampling.most_tokens,
    )
    return FrozenModel(
        model,
        chunk_tokens=settings.learner.logprob_chunk_tokens,
        packing=settings.learner.packing,
        temperature=settings.sampling.temperature,
        device=engine.device,
    )
