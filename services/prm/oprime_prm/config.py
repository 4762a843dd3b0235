"""Settings of the implicit PRM."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from oprime.core import prm_losses
from oprime.core.outcome_balance import DIFFICULTY_OFFSET, balanced_by
from oprime.core.prm_loss import PrmLoss
from oprime.runtime.one_file_settings import Folders, a_file_of, chosen_from, idle_settings, plain, with_own_settings
from oprime.runtime.setting_rules import SHARED_RULES, Problems, Rule, is_loopback
from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    PayloadsSection,
    QueueSection,
    RunSection,
    SamplingSection,
    Section,
    ServiceSettings,
    StoreSection,
)
from oprime.runtime.training_settings import PublishedLoraSection, TrainerSection, offload_problems

PRM_FILES: Folders = {"loss": prm_losses}
"""The settings of [prm] whose values are files."""


class ImplicitRewardSection(Section):
    """What an implicit PRM learns from outcomes, wherever these come from."""

    beta: float = Field(default=0.05, gt=0)
    """Scale that turns a log-probability ratio into a reward (paper, Eq. 3)."""
    loss: Annotated[str, a_file_of(prm_losses)] = chosen_from(prm_losses, default="ce", meaning="Loss on outcomes, a mean over rollouts.")


class CommonPrmSection(ImplicitRewardSection, TrainerSection):
    """Settings of [prm] that do not belong to single losses."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW (paper, section 4.1)."""
    gradient_clip: float = Field(default=10.0, gt=0)
    """Largest gradient norm."""
    update: Literal["double_forward", "single_forward", "reverse", "offline"] = "double_forward"
    """`double_forward` updates, then scores with the new version; `single_forward` scores with the version before the
    update; `reverse` does too, and gathers from those scores the statistics that pair losses need; `offline` never updates."""
    reference: Literal["sft", "policy"] = "sft"
    """pi_ref of Eq. 3. `sft`: a frozen model. `policy`: the log-probs with which each rollout was sampled; needs temperature 1. Score
    requests are answered with the frozen model in both cases."""
    initial_model: str = ""
    """Start the PRM from this model instead of model.path; also one that was trained offline."""
    reference_model: str = ""
    """The frozen model of reference = "sft"; empty means the model that the PRM starts from. A PRM that was trained offline needs the
    model that it was trained from."""
    sampled_groups: int = Field(default=1, ge=0)
    """Groups per step whose rollouts are kept, with their process rewards, in RUN/samples."""
    max_score_items: int = Field(default=256, ge=1)
    """Most responses in one Score request."""
    lora: PublishedLoraSection = PublishedLoraSection()
    """Adapters of the PRM (docs/lora.md). Where the PRM is its own reference, both share one model."""
    score_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """What PRM and reference compute token rewards in; `auto` is model.dtype. `float32` beside a bfloat16 model scores with the master
    weights in a float32 copy of the PRM, and with a float32 reference, on every rank: 6 bytes per weight more. In bfloat16 the rewards of
    the first updates are rounding noise (docs/algorithm.md). Published versions of the PRM are then float32 too."""
    measure_noise_every: int = Field(default=10, ge=0)
    """Where rewards are computed in bfloat16: steps from one measurement of their rounding noise to the next, the first step included; 0
    turns it off. Rank 0 computes the rewards of a few rollouts again in float32, with a copy of one model at a time that exists meanwhile:
    4 bytes per weight, on the GPU where so much is free, else in main memory."""
    noise_rollouts: int = Field(default=4, ge=1)
    """Rollouts of the batch on which that is measured."""


class PrmSection(with_own_settings(CommonPrmSection, PRM_FILES)):
    def scores_in(self, model: ModelSection) -> Literal["bfloat16", "float32"]:
        """The type in which token rewards are computed."""
        return model.dtype if self.score_dtype == "auto" else self.score_dtype

    def scores_apart(self, model: ModelSection) -> bool:
        """Whether token rewards are computed in another type than the PRM is trained in, with a copy of it."""
        return self.scores_in(model) != model.dtype

    def copy_has_adapters(self, model: ModelSection) -> bool:
        """Whether the copy that answers requests stands on the trained model's weights, with adapters of its own. ZeRO 3 leaves a rank no
        whole weights, and another type is another model."""
        return self.lora.rank > 0 and self.zero_stage < 3 and not self.scores_apart(model)

    def published_in(self, model: ModelSection) -> Literal["bfloat16", "float32"]:
        """The type of versions that are written: nothing is lost that training or scores have."""
        return "float32" if "float32" in (model.dtype, self.scores_in(model)) else "bfloat16"

    @property
    def chosen_loss(self) -> PrmLoss:
        return prm_losses.named(self.loss).with_settings(dict(self))

    @model_validator(mode="after")
    def settings_fit_together(self) -> Self:
        if problems := [*idle_settings(self, "prm", PRM_FILES), *self.chosen_loss.contradictions()]:
            raise ValueError("; ".join(problems))
        return self


class ScoringSection(Section):
    """How requests for token rewards are answered (docs/rewards.md)."""

    replicas: int = Field(default=0, ge=0)
    """Processes that do nothing but score, beside the run; each holds the PRM and its reference, and follows the PRM's versions. With 0
    the first rank of the PRM answers between its own work."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Without replicas: most of its time that the PRM's first rank gives to requests while the run trains."""
    publish_every: int = Field(default=1, ge=1)
    """With replicas: train steps from one PRM version that is written for them to the next."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Tokens of one forward pass, of all requests together; a longer response has one of its own. Bounds memory, and how long a short
    request waits for a long one."""
    waiting_tokens: int = Field(default=4_194_304, ge=1)
    """Tokens that may wait to be scored, in one process; a request that would be more is answered with 429."""
    versions: int = Field(default=2, ge=2)
    """PRM versions that a replica holds at once, the newest included; one more while it moves to a newer one. Others are loaded from the
    run's folder when a request names them."""
    version: int | None = Field(default=None, ge=0)
    """The version that answers where a request names none; not set, the newest. 0 is the model that the PRM starts from."""
    poll_s: float = Field(default=1.0, gt=0)
    """How often a replica looks for a newer version."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where replicas compute; `auto` takes a GPU when there is one."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of a replica; 0 is an even share of the cores, or one in a run. Where such a share is more than one, PRM and reference
    are computed side by side, on half of it each."""


def process_rewards_exist(prm: PrmSection, algorithm: AlgorithmSection, model: ModelSection) -> Problems:
    if algorithm.process_weight == 0 or prm.update != "offline" or prm.reference == "policy":
        return []
    start = prm.initial_model or model.path
    if (prm.reference_model or start) != start:
        return []
    return [
        f'prm.update = "offline" with algorithm.process_weight > 0 and a PRM that starts as its own reference ({start}): it would reward '
        "nothing; name a trained PRM in prm.initial_model and the model that it was trained from in prm.reference_model, or use "
        "prm.update=double_forward, or algorithm.process_weight=0"
    ]


def pair_losses_know_scores(prm: PrmSection) -> Problems:
    if prm.chosen_loss.statistics is None or prm.update == "reverse":
        return []
    return [
        f'prm.loss = "{prm.loss}" with prm.update = "{prm.update}": a pair loss compares with scores from before the update, which only '
        '"reverse" gathers; use prm.update=reverse, or prm.loss=ce'
    ]


def pair_losses_have_pairs(prm: PrmSection, sampling: SamplingSection) -> Problems:
    if prm.chosen_loss.statistics is None or sampling.group_size >= 2:
        return []
    return [
        f'prm.loss = "{prm.loss}" with sampling.group_size = {sampling.group_size}: there are no siblings to pair; '
        "set sampling.group_size=4, or prm.loss=ce"
    ]


def balanced_losses_have_siblings(prm: PrmSection, sampling: SamplingSection) -> Problems:
    chosen = balanced_by(dict(prm))
    if not chosen or sampling.group_size >= 2:
        return []
    return [
        f"prm.{' and prm.'.join(chosen)} with sampling.group_size = {sampling.group_size}: balancing looks at how many siblings are right, "
        f"and there are none; set sampling.group_size=4, or {' and '.join(f'prm.{name}=false' for name in chosen)}"
    ]


def estimator_reads_the_loss(prm: PrmSection, algorithm: AlgorithmSection) -> Problems:
    losses = algorithm.chosen_estimator.prm_losses
    if not losses or prm.loss in losses or not algorithm.needs_prm or prm.update == "offline":
        return []
    known = " or ".join(sorted(losses))
    return [
        f'algorithm.estimator = "{algorithm.estimator}" with prm.loss = "{prm.loss}": it reads the rewards of a PRM that {known} trains; '
        f"set prm.loss={sorted(losses)[0]}, or another estimator"
    ]


def values_have_the_losses_offset(prm: PrmSection, algorithm: AlgorithmSection) -> Problems:
    offset = algorithm.chosen_estimator.own_values(dict(algorithm)).get("value_offset")
    learned = bool(dict(prm)[DIFFICULTY_OFFSET.name])
    if offset in (None, learned) or not algorithm.needs_prm or prm.update == "offline":
        return []
    wanted = plain(learned)
    return [
        f"algorithm.value_offset = {plain(not learned)} with prm.difficulty_offset = {wanted}: what the PRM learned to "
        f"take as known must be added to its values, and nothing else; set algorithm.value_offset={wanted}"
    ]


def policy_reference_needs_temperature_1(prm: PrmSection, sampling: SamplingSection) -> Problems:
    if prm.reference != "policy" or sampling.temperature == 1:
        return []
    return [
        f'prm.reference = "policy" with sampling.temperature = {sampling.temperature:g}: the log-probs of the rollouts are those after '
        "temperature, the PRM's are not; set sampling.temperature=1, or prm.reference=sft"
    ]


def prm_can_offload(prm: PrmSection) -> Problems:
    return offload_problems("prm", prm)


def adapters_are_trained(prm: PrmSection) -> Problems:
    if not prm.lora.rank or prm.update != "offline":
        return []
    return [f'prm.lora.rank = {prm.lora.rank} does nothing with prm.update = "offline", which trains nothing: leave it at 0']


def scores_fit_attention(prm: PrmSection, model: ModelSection) -> Problems:
    if prm.score_dtype != "float32" or model.attention != "flash_attention_2":
        return []
    return [
        'prm.score_dtype = "float32" with model.attention = "flash_attention_2", which computes in half precision only: set '
        "model.attention=sdpa, or prm.score_dtype=auto"
    ]


def every_replica_has_an_address(scoring: ScoringSection, endpoints: EndpointsSection) -> Problems:
    given = len(endpoints.scorers)
    if given in (0, 1, scoring.replicas):
        return []
    return [
        f"endpoints.scorers names {given} addresses with scoring.replicas = {scoring.replicas}: give one for each, one name that all "
        "share, or none"
    ]


def replicas_are_guarded(scoring: ScoringSection, endpoints: EndpointsSection) -> Problems:
    if not scoring.replicas or endpoints.insecure or endpoints.tls.files:
        return []
    reached = [address for address in endpoints.scorers if not is_loopback(endpoints.listen_at(address))]
    if not reached:
        return []
    return [
        f"scorers would listen where other machines reach them ({', '.join(reached)}), and answer whoever asks: name certificates in "
        "endpoints.tls, listen on 127.0.0.1, or set endpoints.insecure=true in a network that holds nobody but the run"
    ]


PRM_RULES: tuple[Rule, ...] = (
    every_replica_has_an_address,
    replicas_are_guarded,
    process_rewards_exist,
    pair_losses_know_scores,
    pair_losses_have_pairs,
    balanced_losses_have_siblings,
    policy_reference_needs_temperature_1,
    estimator_reads_the_loss,
    values_have_the_losses_offset,
    prm_can_offload,
    adapters_are_trained,
    scores_fit_attention,
)


class PrmSettings(ServiceSettings):
    service: ClassVar[str] = "prm"
    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *PRM_RULES)

    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    store: StoreSection = StoreSection()
    prm: PrmSection = PrmSection()
    scoring: ScoringSection = ScoringSection()


class ScorerSettings(ServiceSettings):
    """Of a process that only scores."""

    service: ClassVar[str] = "scorer"
    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *PRM_RULES)

    run: RunSection
    model: ModelSection
    sampling: SamplingSection = SamplingSection()
    """Of the run that is served, if it is one."""
    algorithm: AlgorithmSection = AlgorithmSection()
    endpoints: EndpointsSection = EndpointsSection()
    prm: PrmSection = PrmSection()
    scoring: ScoringSection = ScoringSection()
