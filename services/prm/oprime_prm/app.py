"""Builds the PRM service."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from oprime.adapters.deepspeed_engine import DeepSpeedEngine
from oprime.adapters.observed import observed
from oprime.adapters.open_payloads import open_payloads
from oprime.adapters.redis_queue import RedisQueue
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.core.types import Batch
from oprime.lm.batches import MicroBatch
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import adapter_files, add_adapter, base_dtype, twin
from oprime.lm.models import count_parameters, load_causal_lm, longest_context, seed_process
from oprime.lm.token_logprobs import TokenLogprobModel
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id
from oprime.ports import BATCHES, Metrics, Payloads
from oprime.runtime.errors import NotNeededError, SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import BusyMeter, report_heartbeats
from oprime.runtime.process import Lifecycle
from oprime.runtime.ranks import Ranks
from oprime.runtime.rollout_payloads import read_rollouts
from oprime.runtime.setting_rules import NO_PRM, trainers_of
from oprime.runtime.train_loop import TrainLoop
from oprime_prm.config import PrmSettings
from oprime_prm.implicit_prm import ImplicitPrm
from oprime_prm.noise_meter import NoiseMeter
from oprime_prm.prm_copy import PrmCopy
from oprime_prm.rank_methods import SERVE, Models, RankMethods
from oprime_prm.references import References
from oprime_prm.scoring.inputs import InputReader
from oprime_prm.scoring.meter import ScoreMeter
from oprime_prm.scoring.models import require_the_same_tokenizer
from oprime_prm.scoring.queue import ScoreQueue
from oprime_prm.scoring.scorer import Scorer
from oprime_prm.scoring.share import TimeShare
from oprime_prm.servicer import PrmServicer
from oprime_prm.serving import ElsewhereScored, ServingPrm
from oprime_prm.train import CONSUMER, TrainPrm
from oprime_proto.v1.prm_pb2_grpc import add_PrmServiceServicer_to_server

FLOAT32_BYTES = 4
SERVE_ONLY = "OPRIME_SERVE_ONLY"
"""Environment variable: 1 says that the run's services are up to answer, not to train."""


async def serve(settings: PrmSettings, lifecycle: Lifecycle) -> None:
    if not settings.algorithm.needs_prm:
        raise NotNeededError(
            f"nothing to do: {NO_PRM}; the learner takes its batches from the coordinator, so start the other services only"
        )
    if settings.scoring.replicas and not settings.endpoints.scorers:
        raise SettingsError(
            f"scoring.replicas = {settings.scoring.replicas}, but endpoints.scorers names none: start `python -m oprime_prm.scoring` for "
            "each (`oprime train` and `oprime up` do) and name their addresses there, or set scoring.replicas=0"
        )
    # Before the models: loading them takes long, and the process is alive meanwhile.
    with observed("prm", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        payloads = open_payloads(settings.payloads, settings.queue, settings.run.name)
        models = await lifecycle.before_serving(build_models, settings, payloads)
        methods = RankMethods(models, settings)
        ranks = Ranks(models.channel, methods.by_name)
        if models.channel.rank != 0:
            await ranks.follow()
            return
        async with ranks:
            await _lead(settings, lifecycle, ranks, methods, metrics)


async def _lead(settings: PrmSettings, lifecycle: Lifecycle, ranks: Ranks, methods: RankMethods, metrics: Metrics) -> None:
    """Rank 0's part: queue, requests, and calls to all ranks."""
    models, clock, meter = methods.models, SystemClock(), BusyMeter(metrics)
    queue = RedisQueue.of_run(settings.queue, settings.run.name)
    server = GrpcServer.of(settings.endpoints, "prm", on_serving=lifecycle.note_ready)
    loop: TrainLoop[Batch] = TrainLoop(
        CONSUMER, BATCHES, trainers_of(settings.algorithm), settings.run, ranks, queue, models.payloads, clock, meter, metrics
    )
    loop.training = training = TrainPrm(settings, loop, methods)
    if models.serving is not None:
        models.serving.fetch = partial(ranks.call, SERVE)
    scores = ScoreMeter(metrics)
    scoring, scorer = _scoring(settings, models, clock, scores, trains=lambda: trains(training.step, settings.run.steps))
    server.add(add_PrmServiceServicer_to_server, _servicer(settings, scorer, meter), "oprime_proto.v1.PrmService")
    try:
        await server.start()
        await lifecycle.run(
            loop.run(lifecycle.stopping, ready=partial(server.set_serving, True)),
            loop.end_with_run(lifecycle.stopping),
            scoring.run(),
            ranks.stay_in_touch(),
            ranks.watch(),
            loop.lease.keep(),
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
        await queue.close()


def trains(step: int, steps: int) -> bool:
    """Whether there is training to leave time to: the run has steps to go, and was not started to serve alone."""
    return step < steps and os.environ.get(SERVE_ONLY) != "1"


def _scoring(
    settings: PrmSettings, models: Models, clock: SystemClock, scores: ScoreMeter, *, trains: Callable[[], bool]
) -> tuple[ScoreQueue, Scorer]:
    """What answers requests from this process, within its share of the time."""
    scoring = settings.scoring
    queue = ScoreQueue(
        micro_batch_tokens=scoring.micro_batch_tokens,
        waiting_tokens=scoring.waiting_tokens,
        share=TimeShare(scoring.share, clock, applies=trains),
        # Not the trainer's own: what it is busy with is training.
        meter=BusyMeter(),
        scores=scores,
    )
    reader = InputReader(models.tokenizer, end_id=models.end_id, longest=models.longest)
    versions = models.serving or ElsewhereScored(models.prm)
    return queue, Scorer(reader, queue, versions, max_items=settings.prm.max_score_items, scores=scores)


def _servicer(settings: PrmSettings, scorer: Scorer, meter: BusyMeter) -> PrmServicer:
    start = settings.prm.initial_model or settings.model.path
    return PrmServicer(scorer, meter, model=start, reference_model=settings.prm.reference_model or start, beta=settings.prm.beta)


def build_models(settings: PrmSettings, payloads: Payloads) -> Models:
    seed_process(settings.run.seed)
    path = settings.prm.initial_model or settings.model.path
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    require_the_same_tokenizer(settings.model, settings.prm, tokenizer)
    lora = settings.prm.lora
    model = load_causal_lm(
        path,
        dtype=base_dtype(lora, settings.model.dtype),
        attention=settings.model.attention,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        trust_remote_code=settings.model.trust_remote_code,
        longest=settings.sampling.most_tokens,
    )
    # ZeRO 3 leaves a rank no whole weights that another model could share.
    start = twin(model) if settings.prm.copy_has_adapters(settings.model) else None
    if lora.rank:
        add_adapter(model, lora, seed=settings.run.seed, setting="prm.lora")
    longest, weights = longest_context(model.config), count_parameters(model)
    scored = TokenLogprobModel(model, settings.prm.logprob_chunk_tokens, packing=settings.prm.packing)
    engine = DeepSpeedEngine(scored, settings.prm, dtype=settings.model.dtype, name="PRM")
    own_reference, answers = settings.prm.reference == "sft", engine.rank == 0 and not settings.scoring.replicas
    reference, copy = _scoring_models(settings, start, engine.device, refers=own_reference or answers, answers=answers)
    pad_id = pad_token_id(tokenizer)
    serving = None
    if answers and reference is not None and copy is not None:
        serving = ServingPrm(copy, reference, beta=settings.prm.beta, pad_id=pad_id)
    contents = partial(read_rollouts, payloads)
    references = None
    if own_reference:
        assert reference is not None  # noqa: S101 - every rank has one
        references = References(reference, contents, payloads, settings.prm, rank=engine.rank, ranks=engine.world_size, pad_id=pad_id)
    return Models(
        channel=engine.group,
        engine=engine,
        prm=ImplicitPrm(
            engine,
            contents,
            references or sampled_with,
            settings.prm,
            pad_id=pad_id,
            total_steps=settings.run.steps,
            copy=copy if settings.prm.scores_apart(settings.model) else None,
            noise=_noise_meter(settings, engine, weights=weights),
        ),
        serving=serving,
        tokenizer=tokenizer,
        end_id=end_token_ids(tokenizer, settings.model.path)[0],
        longest=longest,
        store=StoreWeights(
            str(settings.run.folder / "prm_weights"),
            template=model_directory(path),
            dtype=settings.prm.published_in(settings.model),
            adapter_files=adapter_files(model, model_directory(path), path) if lora.publishes_adapters and engine.rank == 0 else None,
        ),
        payloads=payloads,
        references=references,
    )


def _scoring_models(
    settings: PrmSettings, start: PreTrainedModel | None, device: torch.device, *, refers: bool, answers: bool
) -> tuple[FrozenModel | None, PrmCopy | None]:
    """The reference where one is needed, and the copy of the PRM that scores in another type than it is trained in, or answers requests.

    `start` has the weights below the adapters of the PRM that is trained, where others may stand on them.
    """
    path, frozen = settings.prm.initial_model or settings.model.path, partial(_frozen, settings, device=device)
    # Where the policy is the reference, only requests need a frozen one: it has sampled no log-probs for them.
    reference, reference_path = None, settings.prm.reference_model or path
    if refers:
        reference = _scores(settings, start, device) if start is not None and reference_path == path else frozen(reference_path)
    if start is not None and answers:
        return reference, PrmCopy(_scores(settings, add_adapter(twin(start), settings.prm.lora, seed=settings.run.seed), device))
    return reference, PrmCopy(frozen(path)) if settings.prm.scores_apart(settings.model) or answers else None


def sampled_with(micro: MicroBatch) -> Tensor:
    """The reference log-probs where the policy is the reference: those that each rollout was sampled with."""
    return micro.behaviour


def _frozen(settings: PrmSettings, path: str, *, device: torch.device, exact: bool = False) -> FrozenModel:
    """A model that only scores, in the type that scores are computed in; with `exact` in float32."""
    attention = settings.model.attention
    model = load_causal_lm(
        path,
        dtype="float32" if exact else settings.prm.scores_in(settings.model),
        # Flash attention computes in half precision only.
        attention="sdpa" if exact and attention == "flash_attention_2" else attention,
        device=device,
        trust_remote_code=settings.model.trust_remote_code,
        longest=settings.sampling.most_tokens,
    )
    return _scores(settings, model, device)


def _scores(settings: PrmSettings, model: PreTrainedModel, device: torch.device) -> FrozenModel:
    return FrozenModel(model, chunk_tokens=settings.prm.logprob_chunk_tokens, packing=settings.prm.packing, device=device)


def _noise_meter(settings: PrmSettings, engine: DeepSpeedEngine, *, weights: int) -> NoiseMeter | None:
    """Where rewards are computed in bfloat16. The PRM and its reference, if it is a model, have so many `weights` each."""
    if settings.prm.scores_in(settings.model) == "float32" or not settings.prm.measure_noise_every:
        return None

    def exact(model: str) -> FrozenModel:
        device = engine.device if has_room(engine.device, FLOAT32_BYTES * weights) else torch.device("cpu")
        return _frozen(settings, model, device=device, exact=True)

    path = settings.prm.initial_model or settings.model.path
    reference = partial(exact, settings.prm.reference_model or path) if settings.prm.reference == "sft" else None
    return NoiseMeter(engine, settings.prm, partial(exact, path), reference)


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes, and a quarter more for a pass, are free on a GPU, counting what torch keeps for its own use."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) > 1.25 * size
