"""A whole run's settings: every section of its TOML file, and the rules that only a reader of all of them can check."""

from typing import Any, ClassVar, Self

from oprime.core.outcome_balance import BALANCING, balanced_by
from oprime.runtime.setting_rules import SERVICES, SHARED_RULES, Problems, Rule
from oprime.runtime.settings import (
    AlgorithmSection,
    EndpointsSection,
    ModelSection,
    PayloadsSection,
    QueueSection,
    RunSection,
    SamplingSection,
    ServiceSettings,
    StalenessSection,
    StoreSection,
    TasksSection,
    TrackingSection,
)
from oprime.runtime.training_settings import OptimizerSection, TrainerSection
from oprime_cli.kubernetes.config import KUBERNETES_RULES, KubernetesSection
from oprime_cli.offline_prm.config import OFFLINE_PRM_RULES, OfflinePrmSection
from oprime_cli.warm_up.config import SFT_RULES, SftSection
from oprime_coordinator.config import COORDINATOR_RULES, CoordinatorSection
from oprime_gateway.config import GATEWAY_RULES, GatewaySection
from oprime_generator.config import GeneratorSection
from oprime_learner.config import LEARNER_RULES, CriticSection, LearnerSection
from oprime_prm.config import PRM_RULES, PrmSection, ScoringSection
from oprime_verifier.config import VerifierSection


def batches_split_evenly(
    coordinator: CoordinatorSection, algorithm: AlgorithmSection, prm: PrmSection, learner: LearnerSection, critic: CriticSection
) -> Problems:
    groups = coordinator.groups_per_batch
    updates = {name: model.updates_per_batch for name, model, _ in _trained(algorithm, prm, learner, critic)}
    return [
        f"coordinator.groups_per_batch = {groups} is not a multiple of {name}.updates_per_batch = {count}: every optimizer step takes "
        f"equally many groups; set coordinator.groups_per_batch={-(-groups // count) * count} or {name}.updates_per_batch=1"
        for name, count in updates.items()
        if groups % count
    ]


def ranks_get_rollouts(
    coordinator: CoordinatorSection,
    sampling: SamplingSection,
    algorithm: AlgorithmSection,
    prm: PrmSection,
    learner: LearnerSection,
    critic: CriticSection,
) -> Problems:
    rollouts = coordinator.groups_per_batch * sampling.group_size
    return [
        f"{'learner' if name == 'critic' else name}.ranks = {processes.ranks} is more than the {rollouts // model.updates_per_batch} "
        f"rollouts of one optimizer step (coordinator.groups_per_batch * sampling.group_size / {name}.updates_per_batch): a rank would "
        "have nothing to do; use fewer ranks"
        for name, model, processes in _trained(algorithm, prm, learner, critic)
        if processes.ranks > rollouts // model.updates_per_batch
    ]


def _trained(
    algorithm: AlgorithmSection, prm: PrmSection, learner: LearnerSection, critic: CriticSection
) -> list[tuple[str, OptimizerSection, TrainerSection]]:
    """Section, optimizer and processes of every model that the run trains."""
    with_critic = [("critic", critic, learner)] if algorithm.needs_critic else []
    with_prm = [("prm", prm, prm)] if algorithm.needs_prm else []
    return [("learner", learner, learner), *with_prm, *with_critic]


def updates_are_balanced_or_filtered(prm: PrmSection, algorithm: AlgorithmSection, coordinator: CoordinatorSection) -> Problems:
    chosen = coordinator.filter
    filtered = chosen.enabled and (chosen.drop_zero_variance or (chosen.low > 0 and chosen.high < 1))
    balanced = balanced_by(dict(prm)) == tuple(setting.name for setting in BALANCING)
    updated = algorithm.needs_prm and prm.update != "offline"
    if filtered or balanced or not updated or not prm.chosen_loss.collapses_unbalanced:
        return []
    return [
        f'prm.loss = "{prm.loss}" with groups that are all right or all wrong (coordinator.filter lets them pass): its updates collapse to '
        "one side unless they are balanced; set prm.difficulty_offset=true and prm.rarity_weight=true, or coordinator.filter.enabled=true "
        "with low above 0 and high below 1"
    ]


def warm_up_makes_the_model(sft: SftSection, model: ModelSection) -> Problems:
    if sft.output in {"", model.path}:
        return []
    return [f"sft.output = {sft.output} is not model.path = {model.path}: the warmed-up model would not be trained; make them equal"]


def one_machine_has_a_port_for_each(endpoints: EndpointsSection) -> Problems:
    """Services that listen on the same port of `endpoints.bind` fit different machines alone."""
    if not endpoints.bind:
        return []
    problems: Problems = []
    taken: dict[str, str] = {}
    for service in SERVICES:
        setting, port = f"endpoints.{service}", getattr(endpoints, service).rpartition(":")[2]
        if port != "0" and port in taken:
            problems.append(
                f"{setting} and {taken[port]} both listen on {endpoints.listen(service)}: give each a port of its own, or port 0"
            )
        taken.setdefault(port, setting)
    return problems


RUN_RULES: tuple[Rule, ...] = (
    batches_split_evenly,
    ranks_get_rollouts,
    updates_are_balanced_or_filtered,
    warm_up_makes_the_model,
    one_machine_has_a_port_for_each,
    *SFT_RULES,
    *OFFLINE_PRM_RULES,
    *KUBERNETES_RULES,
)
"""Rules that no single service could check."""


class RunConfig(ServiceSettings):
    rules: ClassVar[tuple[Rule, ...]] = (
        *SHARED_RULES,
        *COORDINATOR_RULES,
        *PRM_RULES,
        *LEARNER_RULES,
        *GATEWAY_RULES,
        *RUN_RULES,
    )

    run: RunSection
    model: ModelSection
    tasks: TasksSection
    sampling: SamplingSection = SamplingSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    staleness: StalenessSection = StalenessSection()
    endpoints: EndpointsSection = EndpointsSection()
    queue: QueueSection = QueueSection()
    payloads: PayloadsSection = PayloadsSection()
    store: StoreSection = StoreSection()
    coordinator: CoordinatorSection
    generator: GeneratorSection = GeneratorSection()
    verifier: VerifierSection = VerifierSection()
    prm: PrmSection = PrmSection()
    scoring: ScoringSection = ScoringSection()
    learner: LearnerSection = LearnerSection()
    critic: CriticSection = CriticSection()
    gateway: GatewaySection = GatewaySection()
    sft: SftSection | None = None
    offline_prm: OfflinePrmSection | None = None
    kubernetes: KubernetesSection = KubernetesSection()
    tracking: TrackingSection = TrackingSection()

    @property
    def own_queue(self) -> QueueSection:
        """The queue as the command line logs in to it."""
        return self.queue.as_user("operator")

    @classmethod
    def from_document(cls, document: dict[str, Any], *, origin: str) -> Self:
        """Read a document. Contradictions are left to the plan, which lists them with all else that speaks against the run."""
        return cls.read(document, origin=origin)
