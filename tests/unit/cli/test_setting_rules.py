"""Every rule holds in every program that reads the settings in question: in a service that is started by itself as in `oprime train`."""

from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from oprime.runtime.errors import SettingsError
from oprime.runtime.setting_rules import Rule
from oprime.runtime.settings import ServiceSettings
from oprime_cli.overrides import apply_override
from oprime_cli.planning.plan import make_plan
from oprime_cli.run_config import RUN_RULES, RunConfig, one_machine_has_a_port_for_each
from oprime_coordinator.config import CoordinatorSettings
from oprime_gateway.config import GatewaySettings
from oprime_generator.config import GeneratorSettings
from oprime_learner.config import LearnerSettings
from oprime_prm.config import PrmSettings
from oprime_verifier.config import VerifierSettings

SERVICES: tuple[type[ServiceSettings], ...] = (
    CoordinatorSettings,
    GatewaySettings,
    GeneratorSettings,
    LearnerSettings,
    PrmSettings,
    VerifierSettings,
)

ALONE = ("sampling.group_size=1", "algorithm.estimator=reinforce")
BREAKING: dict[str, tuple[str, ...]] = {
    "siblings_to_compare_with": ("sampling.group_size=1", "coordinator.filter.enabled=false"),
    "overlong_buffer_fits": ("algorithm.overlong_buffer=4000",),
    "versions_are_kept": ("staleness.max_staleness=3",),
    "attention_fits_dtype": ("model.attention=flash_attention_2",),
    "tasks_are_named": ("tasks.source=rows", "tasks.train=rows.jsonl"),
    "addresses_are_distinct": ("endpoints.prm=127.0.0.1:7001", "endpoints.learner=127.0.0.1:7001"),
    "tls_is_whole": ("endpoints.tls.key_file=server.key",),
    "servers_are_guarded": ("endpoints.prm=0.0.0.0:7001",),
    "collector_is_named": ("endpoints.traces_url=collector:4317",),
    "metrics_ports_are_free_of_services": ("endpoints.prm=127.0.0.1:9464", "endpoints.metrics_port=9464"),
    "queue_address_is_usable": ("queue.url=http://x",),
    "queue_login_is_usable": ("queue.url=redis://:password@redis",),
    "store_address_holds_no_secret": ("store.url=s3://key:secret@bucket/weights",),
    "payload_store_is_usable": ("payloads.store=payloads",),
    "single_rollouts_pass_the_filter": ALONE,
    "truncated_responses_pass_the_filter": ("algorithm.mask_truncated=true",),
    "batch_fits_live_groups": ("coordinator.max_live_groups=4",),
    "process_rewards_exist": ("prm.update=offline",),
    "pair_losses_know_scores": ("prm.loss=dpo",),
    "pair_losses_have_pairs": (*ALONE, "coordinator.filter.enabled=false", "prm.loss=bon_rm", "prm.update=reverse"),
    "balanced_losses_have_siblings": (*ALONE, "coordinator.filter.enabled=false", "prm.rarity_weight=true"),
    "policy_reference_needs_temperature_1": ("prm.reference=policy", "sampling.temperature=0.7"),
    "estimator_reads_the_loss": ("algorithm.estimator=prefix_baseline", "algorithm.process_normalisation=none"),
    "values_have_the_losses_offset": (
        "algorithm.estimator=prefix_baseline",
        "algorithm.process_normalisation=none",
        "prm.loss=prefix_value",
        "prm.beta=10",
        "prm.difficulty_offset=true",
    ),
    "adapters_are_trained": ("prm.lora.rank=8", "prm.update=offline", "prm.reference=policy"),
    "adapters_come_from_the_store": ('learner.lora={rank=8, publish="adapter"}', "store.transfer=nccl"),
    "prm_can_offload": ("prm.offload_optimizer=true",),
    "scores_fit_attention": ("prm.score_dtype=float32", "model.attention=flash_attention_2", "model.dtype=bfloat16"),
    "policy_can_offload": ("learner.offload_optimizer=true",),
    "critic_can_offload": ("algorithm.estimator=ppo", "critic.offload_optimizer=true"),
    "gateway_is_guarded": ("endpoints.gateway=0.0.0.0:8000",),
    "batches_split_evenly": ("learner.updates_per_batch=3",),
    "ranks_get_rollouts": ("prm.ranks=33",),
    "updates_are_balanced_or_filtered": ("prm.loss=prefix_value", "prm.beta=10", "coordinator.filter.enabled=false"),
    "warm_up_makes_the_model": ("sft.output=elsewhere",),
    "every_replica_has_an_address": ("scoring.replicas=3", 'endpoints.scorers=["127.0.0.1:7001","127.0.0.1:7002"]'),
    "replicas_are_guarded": ("scoring.replicas=1", 'endpoints.scorers=["scorer:7001"]'),
    "warm_up_can_offload": ("sft.offload_optimizer=true",),
    "warm_up_ranks_get_demonstrations": ("sft.ranks=4", "sft.batch_rows=2"),
    "warm_up_epochs_end": ("sft.epochs=2",),
    "warm_up_holds_out_once": ("sft.heldout=rows.jsonl", "sft.heldout_share=0.1"),
    "offline_prm_can_offload": ("offline_prm.offload_optimizer=true",),
    "offline_prm_ranks_get_prompts": ("offline_prm.ranks=9",),
    "one_machine_has_a_port_for_each": ("endpoints.bind=127.0.0.1", "endpoints.prm=prm:7001", "endpoints.learner=learner:7001"),
    "ranks_fill_hosts": ("learner.ranks=3", "kubernetes.hosts.learner=2"),
    "only_vllm_has_hosts": ("generator.backend=transformers", "generator.tensor_parallel=2", "kubernetes.hosts.generator=2"),
    "most_replicas_are_most": ("kubernetes.replicas.verifier=20",),
    "shared_memory_fits": ("kubernetes.memory_gib.generator=0.5",),
}
"""For each rule, changes to good settings that break it and no other."""


def document(*overrides: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "run": {"name": "one", "directory": "runs", "steps": 4},
        "model": {"path": "model"},
        "tasks": {"source": "chain"},
        "sampling": {"group_size": 4},
        "coordinator": {"groups_per_batch": 8},
    }
    for text in overrides:
        apply_override(made, text)
    return made


def sections_of(rule: Rule) -> set[str]:
    return set(signature(rule).parameters)


def readers(rule: Rule) -> list[type[ServiceSettings]]:
    """The services that could check a rule, but for the one about a machine that holds all of them."""
    if rule is one_machine_has_a_port_for_each:
        return []
    return [service for service in SERVICES if all(reads_all_of(service, section) for section in sections_of(rule))]


def reads_all_of(service: type[ServiceSettings], section: str) -> bool:
    """The generator reads of [learner] only what versions hold."""
    field = service.model_fields.get(section)
    return field is not None and field.annotation is RunConfig.model_fields[section].annotation


def said_by_the_run(*overrides: str) -> list[str]:
    return RunConfig.from_document(document(*overrides), origin="x.toml").contradictions()


def test_every_rule_is_broken_here_once() -> None:
    names = [rule.__name__ for rule in RunConfig.rules]
    assert sorted(names) == sorted(BREAKING)


@pytest.mark.parametrize("rule", RunConfig.rules, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_said_once_and_alone(rule: Rule) -> None:
    assert len(said_by_the_run(*BREAKING[rule.__name__])) == 1


@pytest.mark.parametrize(
    ("rule", "service"),
    [pair for pair in product(RunConfig.rules, SERVICES) if pair[1] in readers(pair[0])],
    ids=lambda value: value.__name__,
)
def test_every_service_that_reads_the_settings_refuses_them_in_the_same_words(
    rule: Rule, service: type[ServiceSettings], tmp_path: Path
) -> None:
    (said,) = said_by_the_run(*BREAKING[rule.__name__])
    path = tmp_path / "x.toml"
    path.write_text(tomli_w.dumps(document(*BREAKING[rule.__name__])), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        service.load(path)
    assert str(caught.value) == f"{path}: {said}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_good_settings_and_has_no_rule_that_the_command_line_lacks(service: type[ServiceSettings]) -> None:
    assert service.from_document(document(), origin="x.toml").contradictions() == []
    assert [rule.__name__ for rule in service.rules if rule not in RunConfig.rules] == []


def test_a_rule_that_a_service_could_check_is_not_left_to_the_command_line() -> None:
    assert [rule.__name__ for rule in RUN_RULES if readers(rule)] == []
    assert [rule.__name__ for rule in RunConfig.rules if rule not in RUN_RULES and not readers(rule)] == []


def test_containers_may_share_a_port_where_one_machine_may_not() -> None:
    overrides = BREAKING["one_machine_has_a_port_for_each"]
    assert LearnerSettings.from_document(document(*overrides), origin="x.toml").endpoints.bind == "127.0.0.1"
    assert said_by_the_run(*overrides) == [
        "endpoints.learner and endpoints.prm both listen on 127.0.0.1:7001: give each a port of its own, or port 0"
    ]


def test_a_service_says_everything_that_is_wrong_at_once() -> None:
    wrong = ("prm.loss=dpo", "prm.offload_optimizer=true", "queue.url=http://x")
    with pytest.raises(SettingsError) as caught:
        PrmSettings.from_document(document(*wrong), origin="x.toml")
    said = said_by_the_run(*wrong)
    assert len(said) == 3
    assert str(caught.value) == f"x.toml: {'; '.join(said)}"


def test_contradictions_within_a_section_are_all_said() -> None:
    with pytest.raises(SettingsError, match=r"set algorithm.trace_decay=1; .*dual_clip \(0.5\) must be above 1"):
        LearnerSettings.from_document(document("algorithm.dual_clip=0.5", "algorithm.trace_decay=0.5"), origin="x.toml")


def test_the_plan_lists_the_contradictions(tmp_path: Path) -> None:
    config = RunConfig.from_document(document(f"run.directory={tmp_path}", "prm.loss=dpo", "store.keep_versions=2"), origin="x.toml")
    assert set(config.contradictions()) <= set(make_plan(config, new_run=True, gpus=()).problems)
    assert len(config.contradictions()) == 2
