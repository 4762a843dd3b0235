"""What adapters save, in words."""

from collections.abc import Callable, Iterator

from oprime.runtime.errors import OprimeError
from oprime.runtime.training_settings import LoraSection
from oprime_cli.console import count, size
from oprime_cli.paths import is_local_model
from oprime_cli.planning.estimate import ALL_WEIGHTS, WEIGHT_BYTES, Memory, learner_memory, prm_memory, shares_its_base, trained_parameters
from oprime_cli.planning.model_files import ModelFacts, facts, locate
from oprime_cli.run_config import RunConfig

SAFETENSORS_TYPES = {"float32": "F32", "bfloat16": "BF16"}

Estimate = Callable[[RunConfig, ModelFacts, LoraSection], Memory]


def savings(config: RunConfig, policy: ModelFacts, prm: ModelFacts | None) -> Iterator[tuple[str, str]]:
    """For each service whose model has adapters, what that saves in one of its processes."""
    if config.learner.lora.rank:
        yield "learner", _saved(config, policy, config.learner.lora, learner_memory)
    if prm is not None and config.prm.lora.rank:
        yield "prm", f"{_saved(config, prm, config.prm.lora, prm_memory)}; {_shared(config)}"
        if config.learner.lora.rank and config.prm.initial_model in ("", config.model.path):
            yield "learner and prm", _mapped(config, policy)


def savings_of_known_models(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The same where the models are on this machine; nothing where they are not."""
    if not (config.learner.lora.rank or config.prm.lora.rank):
        return
    try:
        policy, prm = (_known(path) for path in (config.model.path, config.prm.initial_model or config.model.path))
    except OprimeError:
        return
    yield from savings(config, policy, prm if config.algorithm.needs_prm else None)


def _known(path: str) -> ModelFacts:
    if not is_local_model(path):
        raise OprimeError(f"{path} is on the hub")
    return facts(locate(path))


def _saved(config: RunConfig, model: ModelFacts, lora: LoraSection, estimate: Estimate) -> str:
    trained, whole, adapted = trained_parameters(model, lora), estimate(config, model, ALL_WEIGHTS), estimate(config, model, lora)
    return (
        f"adapters of rank {lora.rank} train {count(trained)} of {count(model.parameters)} weights; a process takes about "
        f"{size(adapted.total)} in place of {size(whole.total)} and saves {size(whole.total - adapted.total)}"
    )


def _mapped(config: RunConfig, model: ModelFacts) -> str:
    """Whether the two processes have one model below their adapters."""
    dtype, weights = config.model.dtype, size(model.parameters * WEIGHT_BYTES[config.model.dtype])
    if not (shares_its_base(config.learner.lora, config.learner) and shares_its_base(config.prm.lora, config.prm)):
        return "with ZeRO 3 each has pieces of the weights of its own"
    if model.dtypes and model.dtypes != {SAFETENSORS_TYPES[dtype]}:
        return (
            f"each holds the weights below its adapters ({weights}): the files have {', '.join(sorted(model.dtypes))}, and model.dtype = "
            f"{dtype} makes copies of them; with files of that type, CPUs of one host would hold them once"
        )
    return f"on the CPUs of one host both map the weights below their adapters from the same files, and {weights} are in memory once"


def _shared(config: RunConfig) -> str:
    start = config.prm.initial_model or config.model.path
    if not shares_its_base(config.prm.lora, config.prm):
        return "with ZeRO 3 the reference is a model of its own"
    if config.prm.reference_model not in ("", start):
        return f"its reference ({config.prm.reference_model}) is another model, and held besides"
    return "its reference is the PRM without adapters, on the same weights"
