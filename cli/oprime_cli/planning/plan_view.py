"""A plan as a person reads it."""

from collections.abc import Iterator

from rich.table import Table

from oprime.core.one_file import Choice
from oprime.runtime.one_file_settings import plain
from oprime.runtime.queue_url import without_password
from oprime.runtime.setting_rules import NO_PRM, services_of
from oprime.runtime.settings import AlgorithmSection
from oprime_cli.console import count, say, show, size
from oprime_cli.planning.adapters import savings
from oprime_cli.planning.estimate import Memory, sequence_tokens
from oprime_cli.planning.plan import Plan, gpu_loads, memory_of
from oprime_cli.run_config import RunConfig
from oprime_cli.running.services import ranks, threads


def show_plan(plan: Plan) -> None:
    """Algorithm, batch arithmetic, services and memory; then warnings."""
    config = plan.config
    table = Table(title=f"plan of run {config.run.name}", show_header=False)
    for name, value in plan_lines(plan):
        table.add_row(name, value)
    show(table)
    show(_services(plan))
    if plan.has_models:
        show(_memory(plan))
    for warning in plan.warnings:
        say(f"note: {warning}")


def plan_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    config = plan.config
    yield "algorithm", algorithm_line(config)
    yield "batch", batch_line(config)
    critic = [("critic", config.learner.training(config.critic))] if config.algorithm.needs_critic else []
    prm = [("prm", config.prm)] if config.algorithm.needs_prm else []
    for name, trainer in (("learner", config.learner), *critic, *prm):
        rollouts = config.coordinator.groups_per_batch * config.sampling.group_size // trainer.updates_per_batch
        micro = -(-rollouts // (trainer.ranks * trainer.micro_batch_rollouts))
        passes = f"{micro} micro-batch(es) of up to {trainer.micro_batch_rollouts} per rank"
        if trainer.micro_batch_tokens:
            passes = f"micro-batches of up to {trainer.micro_batch_tokens} tokens per rank"
        yield (
            name,
            (
                f"{trainer.updates_per_batch} optimizer step(s) per batch of {rollouts} rollouts each, {passes}, "
                f"learning rate {trainer.learning_rate:g}"
            ),
        )
    if not config.algorithm.needs_prm:
        yield "prm", f"none: {NO_PRM}"
    prompts = config.run.steps * config.coordinator.groups_per_batch
    trained = prompts * config.sampling.group_size
    yield "run", f"{config.run.steps} steps, {count(prompts)} prompts and {count(trained)} rollouts trained on; filtered ones come on top"
    prompt, response = config.sampling.max_prompt_tokens, config.sampling.max_response_tokens
    yield "length", f"prompt {prompt} + response {response} = {sequence_tokens(config)} tokens at most"
    yield "tasks", tasks_line(config)
    if plan.policy is not None:
        how = "counted" if plan.policy.counted else "estimated"
        yield "model", f"{config.model.path}: {count(plan.policy.parameters)} parameters ({how}), {config.model.dtype}"
        yield from ((f"{service} adapters", text) for service, text in savings(config, plan.policy, plan.prm))
        yield "disk", f"about {size(plan.disk_bytes)} of checkpoints and weight versions in {config.run.folder}"
    yield "GPUs", ", ".join(f"{gpu.name} ({size(gpu.memory_bytes)})" for gpu in plan.gpus) or "none: everything runs on the CPU"


def algorithm_line(config: RunConfig) -> str:
    algorithm = config.algorithm
    reward = f"{algorithm.process_weight:g} x process + {algorithm.outcome_weight:g} x outcome"
    prm = f"PRM {config.prm.update}, {config.prm.loss}, beta {config.prm.beta:g}" if algorithm.needs_prm else "no PRM"
    estimator = _with_settings(algorithm.estimator, algorithm, algorithm.chosen_estimator)
    loss = _with_settings(algorithm.policy_loss, algorithm, algorithm.chosen_policy_loss)
    return (
        f"PRIME · {estimator}, advantage {reward} · {prm} · {loss}"
        f" · staleness <= {config.staleness.max_staleness} (`oprime explain` has the formulas)"
    )


def _with_settings(name: str, algorithm: AlgorithmSection, choice: Choice) -> str:
    own = ", ".join(f"{setting} {plain(value)}" for setting, value in choice.own_values(dict(algorithm)).items())
    return f"{name} ({own})" if own else name


def batch_line(config: RunConfig) -> str:
    groups, size_of_group = config.coordinator.groups_per_batch, config.sampling.group_size
    kept = config.coordinator.filter
    chosen = f"mean outcome in [{kept.low:g}, {kept.high:g}]" if kept.enabled else "no prompt filter"
    greedy = f" + {groups} greedy baselines" if config.algorithm.needs_greedy_baseline else ""
    return f"{groups} groups x K={size_of_group} = {groups * size_of_group} rollouts{greedy} per step, {chosen}"


def tasks_line(config: RunConfig) -> str:
    if config.tasks.source == "chain":
        chain = config.tasks.chain
        return f"chains of {chain.operations} operations, {count(chain.train_problems)} to train on, {chain.heldout_problems} held out"
    if config.tasks.source == "prose":
        prose = config.tasks.prose
        return f"word problems and functions, {count(prose.train_problems)} to train on, {prose.heldout_problems} held out"
    return f"train {config.tasks.train}, held out {config.tasks.heldout}"


def _services(plan: Plan) -> Table:
    table = Table("service", "address", "device", "processes", "threads", title="services")
    for service in services_of(plan.config.algorithm):
        address = getattr(plan.config.endpoints, service)
        shown = f"{address.rpartition(':')[0]}:free port" if address.endswith(":0") else address
        gpus = plan.devices.of(service)
        device = "GPU " + ", ".join(gpu.name for gpu in gpus) if gpus else "CPU"
        table.add_row(service, shown, device, str(ranks(plan.config, service)), str(threads(plan.config, service)))
    table.add_row("redis", without_password(plan.config.queue.url), "CPU", "1" if plan.config.queue.url == "embedded" else "elsewhere", "1")
    return table


def _memory(plan: Plan) -> Table:
    table = Table("service", "weights", "gradients", "optimizer", "activations", "cache", "in all", title="estimated memory per process")
    if plan.policy is None:
        return table
    for service, memory in memory_of(plan, plan.policy).items():
        table.add_row(service, *_sizes(memory))
    for gpu, names, wanted in gpu_loads(plan, plan.policy):
        table.add_row(f"GPU {gpu.name}: {' + '.join(names)}", "", "", "", "", "", f"{size(wanted)} of {size(gpu.memory_bytes)}")
    return table


def _sizes(memory: Memory) -> list[str]:
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.cache, memory.total)
    return [size(part) if part else "-" for part in parts]
