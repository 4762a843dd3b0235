"""What a run will do, and everything that speaks against it, found before a GPU is touched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oprime.runtime.errors import OprimeError
from oprime_cli.console import size
from oprime_cli.paths import is_local_model
from oprime_cli.planning import check_machine, estimate
from oprime_cli.planning.check_sources import benchmark_problems, queue_problems, tasks_problems
from oprime_cli.planning.hub import ask_only_the_cache_when_away
from oprime_cli.planning.model_files import (
    ModelFacts,
    facts,
    has_chat_template,
    has_tokenizer,
    locate,
    same_tokenizer,
    weight_files,
)
from oprime_cli.run_config import RunConfig
from oprime_cli.running.devices import Devices, Gpu, assign, find_gpus
from oprime_cli.running.failures import PlanRefusedError


@dataclass(slots=True)
class Plan:
    """A run's settings with what the checks found."""

    config: RunConfig
    gpus: Sequence[Gpu]
    devices: Devices
    policy: ModelFacts | None = None
    """None while the model is missing."""
    prm: ModelFacts | None = None
    """None also where the run has no PRM."""
    critic: ModelFacts | None = None
    """PPO's."""
    needs_sft: bool = False
    """Whether the supervised warm-up has to make the model first."""
    disk_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def has_models(self) -> bool:
        """Whether the models that the run needs are known."""
        return self.policy is not None and (self.prm is not None or not self.config.algorithm.needs_prm)

    def check(self) -> None:
        """Raise PlanRefusedError with every problem."""
        if self.problems:
            raise PlanRefusedError(self.problems)


def make_plan(config: RunConfig, *, new_run: bool, gpus: Sequence[Gpu] | None = None) -> Plan:
    """Check all that can be checked; collects problems and raises nothing for them. `gpus` are looked for unless given."""
    ask_only_the_cache_when_away()
    found = find_gpus() if gpus is None else gpus
    plan = Plan(config=config, gpus=found, devices=assign(config, found) or Devices(), needs_sft=needs_sft(config))
    plan.problems += config.contradictions()
    plan.problems += check_machine.package_problems(config, has_gpu=bool(found))
    plan.problems += check_machine.optional_package_problems(config, has_gpu=bool(found))
    plan.problems += check_machine.device_problems(config, found)
    plan.warnings += check_machine.missing_notes(config.tracking)
    plan.problems += check_machine.port_problems(config)
    plan.problems += check_machine.file_problems(config)
    has_model = _check_models(plan)
    plan.problems += tasks_problems(config, has_model=has_model)
    plan.problems += benchmark_problems(config)
    plan.problems += queue_problems(config, new_run=new_run)
    if plan.policy is not None and plan.has_models:
        _check_sizes(plan, plan.policy)
    return plan


def needs_sft(config: RunConfig) -> bool:
    """Whether the settings ask for a supervised warm-up whose model is not there yet."""
    if config.sft is None:
        return False
    directory = Path(config.sft.output or config.model.path)
    return not ((directory / "config.json").exists() and weight_files(directory))


def _check_models(plan: Plan) -> bool:
    """Returns whether the policy is there and sound."""
    if plan.needs_sft:
        plan.warnings.append(f"model {plan.config.model.path} is not there yet: the supervised warm-up makes it, then it is checked")
        return False
    policy, problems = _model("model.path", plan.config.model.path)
    plan.problems += problems
    plan.policy = policy
    if plan.config.algorithm.needs_prm:
        _check_prm_models(plan, policy)
    if plan.config.algorithm.needs_critic:
        path = plan.config.critic.path
        plan.critic = _other_model(plan, "critic.path", path) if path else policy
    if policy is not None:
        plan.problems += check_machine.generator_problems(plan.config, policy, plan.devices)
    return policy is not None and not problems


def _check_prm_models(plan: Plan, policy: ModelFacts | None) -> None:
    start, reference = plan.config.prm.initial_model, plan.config.prm.reference_model
    plan.prm = _other_model(plan, "prm.initial_model", start) if start else policy
    if reference:
        _other_model(plan, "prm.reference_model", reference)


def _other_model(plan: Plan, setting: str, name: str) -> ModelFacts | None:
    """A model that reads the policy's tokens."""
    model, problems = _model(setting, name)
    plan.problems += problems
    if plan.policy is not None and model is not None and not same_tokenizer(locate(plan.config.model.path), locate(name)):
        plan.problems.append(
            f"{setting} = {name} has another tokenizer than model.path = {plan.config.model.path}: it reads the "
            "policy's tokens, so both must have the same one"
        )
    return model


def _model(setting: str, name: str) -> tuple[ModelFacts | None, list[str]]:
    """Facts and problems of one model."""
    try:
        directory = locate(name)
        model = facts(directory)
    except OprimeError as error:
        return None, [f"{setting} = {name}: {error}"]
    problems: list[str] = []
    if is_local_model(name) and not weight_files(directory):
        problems.append(f"{setting} = {name}: there are no weights in it (*.safetensors): copy the whole model")
    if not has_tokenizer(directory):
        problems.append(f"{setting} = {name}: there is no tokenizer in it (tokenizer.json): copy the whole model")
    elif not has_chat_template(directory):
        problems.append(
            f"{setting} = {name}: its tokenizer has no chat template, which turns a task's messages into a prompt: "
            "add chat_template to tokenizer_config.json, or a chat_template.jinja"
        )
    return model, problems


def _check_sizes(plan: Plan, policy: ModelFacts) -> None:
    plan.disk_bytes = estimate.disk_bytes(plan.config, policy, plan.prm, plan.critic)
    plan.problems += check_machine.disk_problems(plan.config, plan.disk_bytes)
    for gpu, names, wanted in gpu_loads(plan, policy):
        if gpu.memory_bytes and wanted > gpu.memory_bytes:
            plan.warnings.append(
                f"GPU {gpu.name} ({size(gpu.memory_bytes)}) may be too small for {' + '.join(names)}, about {size(wanted)}: "
                "lower generator.gpu_memory_share or micro_batch_rollouts, raise zero_stage, or set offload_optimizer"
            )


def memory_of(plan: Plan, policy: ModelFacts) -> dict[str, estimate.Memory]:
    """Estimated memory of one process of each service that holds a model."""
    gpu_bytes = plan.devices.generator[0].memory_bytes if plan.devices.generator else 0
    learner = estimate.learner_memory(plan.config, policy, plan.config.learner.lora)
    prm = {} if plan.prm is None else {"prm": estimate.prm_memory(plan.config, plan.prm, plan.config.prm.lora)}
    return {
        "generator": estimate.generator_memory(plan.config, policy, gpu_bytes=gpu_bytes),
        **prm,
        "learner": learner if plan.critic is None else learner + estimate.critic_memory(plan.config, plan.critic),
    }


def gpu_loads(plan: Plan, policy: ModelFacts) -> list[tuple[Gpu, list[str], int]]:
    """For each GPU the services on it and the bytes that they take together."""
    memory = memory_of(plan, policy)
    loads: list[tuple[Gpu, list[str], int]] = []
    for gpu in plan.gpus:
        names = [name for name in memory if gpu in plan.devices.of(name)]
        loads.append((gpu, names, sum(memory[name].total for name in names)))
    return [load for load in loads if load[1]]
