"""Settings that contradict each other. Each check returns its problems: what, which values, the rule, the remedy."""

from collections.abc import Callable

from oprime.runtime.errors import SettingsError
from oprime.runtime.training_settings import OptimizerSection, TrainerSection
from oprime_cli.run_config import RunConfig
from oprime_cli.running.launch import split_address
from oprime_cli.running.services import SERVICES

Problems = list[str]

QUEUE_SCHEMES = ("redis://", "rediss://", "unix://")
LOOPBACK = ("127.", "localhost", "[::1]")


def settings_problems(config: RunConfig) -> Problems:
    """All contradictions that the settings alone show."""
    checks: tuple[Callable[[RunConfig], Problems], ...] = (
        _updates_divide_batch,
        _ranks_get_rollouts,
        _versions_kept,
        _batch_fits_live_groups,
        _offload_needs_zero,
        _attention_fits_dtype,
        _tasks_named,
        _sft_makes_the_model,
        _addresses,
        _queue_address,
        _gateway_is_guarded,
    )
    return algorithm_problems(config) + [problem for check in checks for problem in check(config)]


def algorithm_problems(config: RunConfig) -> Problems:
    """Contradictions in what is computed, whatever the machine."""
    checks: tuple[Callable[[RunConfig], Problems], ...] = (
        _group_size,
        _single_rollouts_pass_the_filter,
        _process_rewards_exist,
        _pair_losses_have_pairs,
        _policy_reference_needs_temperature_1,
    )
    return [problem for check in checks for problem in check(config)]


def _group_size(config: RunConfig) -> Problems:
    size, algorithm = config.sampling.group_size, config.algorithm
    if not algorithm.needs_siblings or size >= 2:
        return []
    return [
        f'sampling.group_size = {size} with algorithm.estimator = "{algorithm.estimator}": rollouts are compared with their siblings, so K '
        "must be at least 2; set sampling.group_size=4, or algorithm.estimator=reinforce"
    ]


def _single_rollouts_pass_the_filter(config: RunConfig) -> Problems:
    chosen = config.coordinator.filter
    if config.sampling.group_size > 1 or config.algorithm.needs_siblings or not chosen.enabled:
        return []
    if chosen.drop_zero_variance:
        return [
            "sampling.group_size = 1 with coordinator.filter.drop_zero_variance = true: one rollout has no variance, so no group would "
            "pass; set coordinator.filter.drop_zero_variance=false"
        ]
    if chosen.low > 0 and chosen.high < 1:
        return [
            f"sampling.group_size = 1 with coordinator.filter.low = {chosen.low:g} and coordinator.filter.high = {chosen.high:g}: a "
            "rollout that is right or wrong would never pass; set coordinator.filter.enabled=false"
        ]
    return []


def _updates_divide_batch(config: RunConfig) -> Problems:
    groups = config.coordinator.groups_per_batch
    updates = {name: model.updates_per_batch for name, model, _ in _trained(config)}
    return [
        f"coordinator.groups_per_batch = {groups} is not a multiple of {name}.updates_per_batch = {count}: every optimizer step takes "
        f"equally many groups; set coordinator.groups_per_batch={-(-groups // count) * count} or {name}.updates_per_batch=1"
        for name, count in updates.items()
        if groups % count
    ]


def _trained(config: RunConfig) -> list[tuple[str, OptimizerSection, TrainerSection]]:
    """Section, optimizer and processes of every model that the run trains."""
    critic = [("critic", config.critic, config.learner)] if config.algorithm.needs_critic else []
    return [("learner", config.learner, config.learner), ("prm", config.prm, config.prm), *critic]


def _ranks_get_rollouts(config: RunConfig) -> Problems:
    rollouts = config.coordinator.groups_per_batch * config.sampling.group_size
    return [
        f"{'learner' if name == 'critic' else name}.ranks = {processes.ranks} is more than the {rollouts // model.updates_per_batch} "
        f"rollouts of one optimizer step (coordinator.groups_per_batch * sampling.group_size / {name}.updates_per_batch): a rank would "
        "have nothing to do; use fewer ranks"
        for name, model, processes in _trained(config)
        if processes.ranks > rollouts // model.updates_per_batch
    ]


def _versions_kept(config: RunConfig) -> Problems:
    kept, needed = config.store.keep_versions, config.staleness.max_staleness + 2
    if kept >= needed:
        return []
    return [
        f"store.keep_versions = {kept} is below staleness.max_staleness + 2 = {needed}: a version that rollouts may still come from would "
        f"be removed; set store.keep_versions={needed}"
    ]


def _process_rewards_exist(config: RunConfig) -> Problems:
    prm = config.prm
    if config.algorithm.process_weight == 0 or prm.update != "offline" or prm.reference == "policy":
        return []
    start = prm.initial_model or config.model.path
    if (prm.reference_model or start) != start:
        return []
    return [
        f'prm.update = "offline" with algorithm.process_weight > 0 and a PRM that starts as its own reference ({start}): it would reward '
        "nothing; name a trained PRM in prm.initial_model and the model that it was trained from in prm.reference_model, or use "
        "prm.update=double_forward, or algorithm.process_weight=0"
    ]


def _pair_losses_have_pairs(config: RunConfig) -> Problems:
    loss, update = config.prm.loss, config.prm.update
    if loss == "ce":
        return []
    problems: Problems = []
    if update != "reverse":
        problems.append(
            f'prm.loss = "{loss}" with prm.update = "{update}": a pair loss compares with scores from before the update, which only '
            '"reverse" gathers; use prm.update=reverse, or prm.loss=ce'
        )
    if config.sampling.group_size < 2:
        problems.append(
            f'prm.loss = "{loss}" with sampling.group_size = {config.sampling.group_size}: there are no siblings to pair; '
            "set sampling.group_size=4, or prm.loss=ce"
        )
    return problems


def _policy_reference_needs_temperature_1(config: RunConfig) -> Problems:
    temperature = config.sampling.temperature
    if config.prm.reference != "policy" or temperature == 1:
        return []
    return [
        f'prm.reference = "policy" with sampling.temperature = {temperature:g}: the log-probs of the rollouts are those after '
        "temperature, the PRM's are not; set sampling.temperature=1, or prm.reference=sft"
    ]


def _batch_fits_live_groups(config: RunConfig) -> Problems:
    live, batch = config.coordinator.max_live_groups, config.coordinator.groups_per_batch
    if live >= batch:
        return []
    return [
        f"coordinator.max_live_groups = {live} is below coordinator.groups_per_batch = {batch}: no batch could ever be filled; "
        f"set coordinator.max_live_groups={2 * batch} or more"
    ]


def _offload_needs_zero(config: RunConfig) -> Problems:
    return [
        f"{name}.offload_optimizer = true with {name}.zero_stage = 0: only ZeRO 1 to 3 can offload; set {name}.zero_stage=1"
        for name, model, _ in _trained(config)
        if model.offload_optimizer and model.zero_stage == 0
    ]


def _attention_fits_dtype(config: RunConfig) -> Problems:
    if config.model.attention != "flash_attention_2" or config.model.dtype == "bfloat16":
        return []
    return ['model.attention = "flash_attention_2" computes in half precision only: set model.dtype=bfloat16 or model.attention=sdpa']


def _tasks_named(config: RunConfig) -> Problems:
    if config.tasks.source == "chain":
        return []
    return [
        f'tasks.{name} is empty with tasks.source = "rows": name a JSONL or parquet file, or set tasks.source=chain'
        for name in ("train", "heldout")
        if not getattr(config.tasks, name)
    ]


def _sft_makes_the_model(config: RunConfig) -> Problems:
    if config.sft is None or config.sft.output in {"", config.model.path}:
        return []
    return [
        f"sft.output = {config.sft.output} is not model.path = {config.model.path}: the warmed-up model would not be trained; "
        "make them equal"
    ]


def _addresses(config: RunConfig) -> Problems:
    problems: Problems = []
    taken: dict[str, str] = {}
    for service in SERVICES:
        setting = f"endpoints.{service}"
        try:
            _, port = split_address(getattr(config.endpoints, service), setting)
        except SettingsError as error:
            problems.append(str(error))
            continue
        address = config.endpoints.listen(service)
        if port and address in taken:
            problems.append(f"{setting} and {taken[address]} are both {address}: give each service a port of its own, or port 0")
        taken.setdefault(address, setting)
    return problems


def _queue_address(config: RunConfig) -> Problems:
    url = config.queue.url
    if url == "embedded" or url.startswith(QUEUE_SCHEMES):
        return []
    return [f'queue.url = {url!r}: write "embedded", or an address that begins with redis://, rediss:// or unix://']


def _gateway_is_guarded(config: RunConfig) -> Problems:
    keys, address = config.gateway.api_keys_file, config.endpoints.listen("gateway")
    if keys is not None:
        return [] if keys.is_file() else [f"gateway.api_keys_file = {keys}: there is no such file; write one key per line into it"]
    if address.startswith(LOOPBACK):
        return []
    return [f"the gateway listens on {address}, not on loopback alone, and gateway.api_keys_file is not set: set it, or use 127.0.0.1"]
