"""Rough sizes of a run before it starts: memory per process and disk space."""

from dataclasses import dataclass, fields

from oprime.runtime.settings import ModelSection
from oprime.runtime.training_settings import VOCABULARY_CHUNK, EngineSection, LoraSection, TrainerSection
from oprime_cli.planning.model_files import ModelFacts
from oprime_cli.run_config import RunConfig

ADAM_BYTES = {"float32": 8, "bfloat16": 12}
"""Optimizer bytes per parameter: two moments, and a float32 master copy beside bfloat16 weights."""
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
ACTIVATION_VALUES = 17
"""Values kept per token, layer and hidden unit for the backward pass, attention scores left out."""
PUBLISHED_BYTES = 4
CHECKPOINT_BYTES = 16
"""Bytes per trained parameter of a checkpoint: weights, master copy and moments."""
ALL_WEIGHTS = LoraSection()
"""Of a model that is trained without adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one process, by what they hold."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.cache

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


def learner_memory(config: RunConfig, policy: ModelFacts, lora: LoraSection) -> Memory:
    """One rank of the learner, with the reference of its KL, if it has one: the policy without its adapters, where it has these."""
    alone = config.algorithm.kl_coefficient > 0 and not shares_its_base(lora, config.learner)
    return trainer_memory(config, config.learner, policy, frozen=int(alone), lora=lora)


def prm_memory(config: RunConfig, prm: ModelFacts, lora: LoraSection) -> Memory:
    """The first rank of the PRM, with its frozen reference, and a copy where it scores in another type than it is trained in, or answers
    requests."""
    start = config.prm.initial_model or config.model.path
    apart = config.prm.scores_apart(config.model)
    shares = shares_its_base(lora, config.prm) and not apart
    reference = not (shares and config.prm.reference_model in ("", start))
    copy = apart or (config.scoring.replicas == 0 and not shares)
    frozen = (int(reference) + int(copy)) * WEIGHT_BYTES[config.prm.scores_in(config.model)] * prm.parameters
    return trainer_memory(config, config.prm, prm, lora=lora) + Memory(weights=frozen)


def shares_its_base(lora: LoraSection, trainer: TrainerSection) -> bool:
    """Whether other models in a trainer's process can stand on the weights below its adapters: ZeRO 3 leaves it none that are whole."""
    return lora.rank > 0 and trainer.zero_stage < 3


def trained_parameters(model: ModelFacts, lora: LoraSection) -> int:
    """Those of the adapters, if there are any, else all of the model's: A and B have r weights per input and output of a layer."""
    if not lora.rank:
        return model.parameters
    return lora.rank * sum(sides for name, sides in model.linear_sides.items() if not lora.targets or name in lora.targets)


def trainer_memory(
    config: RunConfig, trainer: TrainerSection, model: ModelFacts, *, frozen: int = 0, lora: LoraSection = ALL_WEIGHTS
) -> Memory:
    """One rank of a run that trains a model and holds so many frozen ones besides."""
    tokens = max(trainer.micro_batch_tokens, sequence_tokens(config))
    if not trainer.micro_batch_tokens:
        tokens = trainer.micro_batch_rollouts * sequence_tokens(config)
    return training_memory(config.model, trainer, model, tokens=tokens, frozen=frozen, lora=lora)


def training_memory(
    settings: ModelSection, trainer: EngineSection, model: ModelFacts, *, tokens: int, frozen: int = 0, lora: LoraSection = ALL_WEIGHTS
) -> Memory:
    """One rank of a training whose passes have so many tokens. Without ZeRO and adapters: 16 bytes per parameter."""
    dtype = settings.dtype
    trained = trained_parameters(model, lora)
    gradients, optimizer = (trained * size for size in (WEIGHT_BYTES[dtype], ADAM_BYTES[dtype]))
    whole = model.parameters * WEIGHT_BYTES[dtype]
    weights = whole + (trained * WEIGHT_BYTES[dtype] if lora.rank else 0)
    # ZeRO 1 spreads the optimizer over the ranks, 2 the gradients as well, 3 the weights as well.
    if trainer.zero_stage >= 1:
        optimizer //= trainer.ranks
    if trainer.zero_stage >= 2:
        gradients //= trainer.ranks
    if trainer.zero_stage >= 3:
        weights //= trainer.ranks
    return Memory(
        weights=weights + frozen * whole,
        gradients=gradients,
        optimizer=optimizer,
        activations=_activations(settings, trainer, model, tokens),
    )


def _activations(settings: ModelSection, trainer: EngineSection, model: ModelFacts, tokens: int) -> int:
    size = WEIGHT_BYTES[settings.dtype]
    per_layer = tokens * model.hidden_size * ACTIVATION_VALUES * size
    layers = per_layer * model.layers
    if settings.gradient_checkpointing:
        layers = tokens * model.hidden_size * size * model.layers + per_layer
    chunk = trainer.logprob_chunk_tokens
    logits = 2 * 4 * min(min(tokens, chunk) * model.vocabulary, chunk * VOCABULARY_CHUNK)
    return layers + logits


def generator_memory(config: RunConfig, model: ModelFacts, *, gpu_bytes: int) -> Memory:
    """One GPU of a replica, or the whole replica on a CPU (`gpu_bytes` = 0)."""
    size = WEIGHT_BYTES[config.model.dtype]
    parallel = config.generator.tensor_parallel if gpu_bytes else 1
    adapters = trained_parameters(model, config.learner.lora) if config.learner.lora.publishes_adapters else 0
    weights = (model.parameters + adapters) * size // parallel
    wanted = cache_bytes_per_token(config, model) * sequence_tokens(config) * config.generator.max_running_rollouts // parallel
    if config.generator.backend == "transformers":
        return Memory(weights=weights, cache=wanted)
    # vLLM takes what it was given, whether it needs it or not.
    given = int(config.generator.gpu_memory_share * gpu_bytes) - weights if gpu_bytes else int(config.generator.cpu_cache_gib * 2**30)
    return Memory(weights=weights, cache=max(0, given))


def cache_bytes_per_token(config: RunConfig, model: ModelFacts) -> int:
    return 2 * model.layers * model.key_value_heads * model.head_size * WEIGHT_BYTES[config.model.dtype]


def sequence_tokens(config: RunConfig) -> int:
    return config.sampling.max_prompt_tokens + config.sampling.max_response_tokens


def critic_memory(config: RunConfig, critic: ModelFacts) -> Memory:
    """PPO's critic in one rank of the learner. It has no vocabulary head, which is little less than is counted here."""
    return trainer_memory(config, config.learner.training(config.critic), critic)


def disk_bytes(config: RunConfig, policy: ModelFacts, prm: ModelFacts | None, critic: ModelFacts | None = None) -> int:
    """Checkpoints (one more while it is written), weight versions (those kept, one per checkpoint, one being written)."""
    learner, of_prm = config.learner.lora, config.prm.lora
    trained = sum(trained_parameters(model, lora) for model, lora in ((policy, learner), (prm, of_prm), (critic, ALL_WEIGHTS)) if model)
    checkpoints = (config.run.keep_checkpoints + 1) * CHECKPOINT_BYTES * trained
    published = trained_parameters(policy, learner) if learner.publishes_adapters else policy.parameters
    # Adapters need version 0, which is the whole model.
    base = policy.parameters if learner.publishes_adapters else 0
    versions = (config.store.keep_versions + config.run.keep_checkpoints + 1) * PUBLISHED_BYTES * published
    return checkpoints + versions + PUBLISHED_BYTES * base
