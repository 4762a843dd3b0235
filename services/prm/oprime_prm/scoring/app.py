"""Builds a process that only scores: no optimizer, no queue, no training."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from oprime.adapters.observed import observed
from oprime.adapters.store_weights import StoreWeights, model_directory
from oprime.adapters.system_clock import SystemClock
from oprime.lm.computing_thread import computing_thread
from oprime.lm.frozen import FrozenModel
from oprime.lm.lora import fingerprint, is_adapter, load_adapter, require_base, twin
from oprime.lm.models import load_causal_lm, longest_context
from oprime.lm.tokenizers import end_token_ids, load_tokenizer, pad_token_id
from oprime.ports import Metrics
from oprime.runtime.errors import SettingsError
from oprime.runtime.grpc_server import GrpcServer
from oprime.runtime.heartbeat import BusyMeter
from oprime.runtime.process import Lifecycle
from oprime_prm.config import ScorerSettings
from oprime_prm.scoring.inputs import InputReader
from oprime_prm.scoring.meter import ScoreMeter
from oprime_prm.scoring.models import require_the_same_tokenizer
from oprime_prm.scoring.pair import Beside
from oprime_prm.scoring.queue import ScoreQueue
from oprime_prm.scoring.scorer import Scorer
from oprime_prm.scoring.share import TimeShare
from oprime_prm.scoring.versions import FollowedVersions
from oprime_prm.servicer import PrmServicer
from oprime_proto.v1.prm_pb2_grpc import add_PrmServiceServicer_to_server

REPLICA = "OPRIME_SCORER"
"""Environment variable: which of endpoints.scorers is this process's own, where there are several."""


async def serve(settings: ScorerSettings, lifecycle: Lifecycle) -> None:
    with observed("scorer", settings.run.name, settings.endpoints, lifecycle.is_ready) as metrics:
        server = GrpcServer(
            listen_address(settings),
            reflection=settings.endpoints.reflection,
            tls=settings.endpoints.tls,
            on_serving=lifecycle.note_ready,
        )
        parts = await scoring_parts(settings, lifecycle, metrics)
        server.add(add_PrmServiceServicer_to_server, parts.servicer, "oprime_proto.v1.PrmService")
        try:
            await server.start()
            await parts.versions.start()
            await server.set_serving(True)
            await lifecycle.run(parts.queue.run(), parts.versions.follow())
        finally:
            await server.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringParts:
    """What answers requests. `versions` is to be started first, then it follows while the queue runs."""

    servicer: PrmServicer
    queue: ScoreQueue
    versions: FollowedVersions


async def scoring_parts(settings: ScorerSettings, lifecycle: Lifecycle, metrics: Metrics, *, borrows: bool = False) -> ScoringParts:
    """Everything but the network. Loads the reference; a process that is asked to stop meanwhile ends.

    With `borrows` this process is one of several that answer requests alike, and takes another's core while there are few.
    """
    clock, meter, scores = SystemClock(), BusyMeter(metrics), ScoreMeter(metrics)
    scoring = settings.scoring
    reader, versions = await lifecycle.before_serving(partial(build, borrows=borrows), settings, clock, scores)
    queue = ScoreQueue(
        micro_batch_tokens=scoring.micro_batch_tokens,
        waiting_tokens=scoring.waiting_tokens,
        share=TimeShare(1.0, clock),
        meter=meter,
        scores=scores,
    )
    scorer = Scorer(reader, queue, versions, max_items=settings.prm.max_score_items, scores=scores)
    start = settings.prm.initial_model or settings.model.path
    servicer = PrmServicer(scorer, meter, model=start, reference_model=settings.prm.reference_model or start, beta=settings.prm.beta)
    return ScoringParts(servicer=servicer, queue=queue, versions=versions)


def listen_address(settings: ScorerSettings) -> str:
    """Where this replica listens. Raises SettingsError."""
    addresses, number = settings.endpoints.scorers, int(os.environ.get(REPLICA, "0"))
    if not addresses:
        raise SettingsError("endpoints.scorers is empty: name the address at which this replica is to listen, for example 127.0.0.1:50056")
    return settings.endpoints.listen_at(addresses[number if number < len(addresses) else 0])


def build(
    settings: ScorerSettings, clock: SystemClock, scores: ScoreMeter, *, borrows: bool = False
) -> tuple[InputReader, FollowedVersions]:
    """What reads requests, and the models behind them; the reference is loaded already."""
    start = settings.prm.initial_model or settings.model.path
    tokenizer = load_tokenizer(settings.model.path, trust_remote_code=settings.model.trust_remote_code)
    require_the_same_tokenizer(settings.model, settings.prm, tokenizer)
    if settings.scoring.threads:
        torch.set_num_threads(settings.scoring.threads)
    device = chosen_device(settings.scoring.device)
    models = PrmModels(settings, device, start)
    reference = models.read(settings.prm.reference_model or start)
    frozen, longest = models.frozen(reference), longest_context(reference.config)
    beside = side_by_side(borrows=borrows) if device == "cpu" and not settings.scoring.threads else None
    if (settings.prm.reference_model or start) == start:
        models.start_is(reference, frozen)
    reader = InputReader(tokenizer, end_id=end_token_ids(tokenizer, settings.model.path)[0], longest=longest)
    versions = FollowedVersions(
        StoreWeights(
            str(settings.run.folder / "prm_weights"), template=model_directory(start), dtype=settings.prm.published_in(settings.model)
        ),
        models.version,
        frozen,
        beta=settings.prm.beta,
        pad_id=pad_token_id(tokenizer),
        most=settings.scoring.versions,
        fixed=settings.scoring.version,
        clock=clock,
        poll_s=settings.scoring.poll_s,
        note=scores.serves,
        beside=beside,
    )
    return reader, versions


def side_by_side(*, borrows: bool) -> Beside | None:
    """What the reference is computed in beside the PRM; None where this process has one core and may take no other.

    Two passes on half the threads each wait less for the parts of each other than one after the other on all of them.
    """
    threads = torch.get_num_threads()
    if threads == 1 and not (borrows and len(os.sched_getaffinity(0)) > 1):
        return None
    torch.set_num_threads(max(1, threads // 2))
    return Beside(thread=computing_thread("reference"), is_borrowed=threads == 1)


def chosen_device(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError('scoring.device = "cuda", but torch finds no GPU here: set scoring.device=cpu, or auto')
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


class PrmModels:
    """Reads the PRM's versions. What several need in memory is there once: the model that the PRM starts from, below all adapters on it."""

    def __init__(self, settings: ScorerSettings, device: str, start: str) -> None:
        self._settings = settings
        self._device = device
        self._start = start
        self._base: PreTrainedModel | None = None
        self._fingerprint = ""
        self._first: FrozenModel | None = None

    def start_is(self, model: PreTrainedModel, frozen: FrozenModel) -> None:
        """The model that the PRM starts from is its reference, which is read already."""
        self._base, self._first = model, frozen

    def version(self, directory: Path | None) -> FrozenModel:
        """The model in a version's directory, or the one that the PRM starts from. Raises WeightsRefusedError."""
        if directory is None:
            return self._first or self.frozen(self._base or self.read(self._start))
        if not is_adapter(directory):
            return self.frozen(self.read(directory))
        base = model_directory(self._start)
        self._fingerprint = self._fingerprint or fingerprint(base)
        require_base(directory, self._fingerprint, base)
        self._base = self._base or self.read(self._start)
        return self.frozen(load_adapter(twin(self._base), directory))

    def read(self, path: str | Path) -> PreTrainedModel:
        settings = self._settings
        return load_causal_lm(
            path,
            dtype=settings.prm.scores_in(settings.model),
            attention=settings.model.attention,
            device=self._device,
            trust_remote_code=settings.model.trust_remote_code,
            longest=settings.sampling.most_tokens if "sampling" in settings.model_fields_set else None,
        )

    def frozen(self, model: PreTrainedModel) -> FrozenModel:
        """What scores with a model."""
        prm = self._settings.prm
        return FrozenModel(model, chunk_tokens=prm.logprob_chunk_tokens, packing=prm.packing)
