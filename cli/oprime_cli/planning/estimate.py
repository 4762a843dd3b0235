"""Rough sizes of a run before it starts: memory per process and disk space."""

from dataclasses import dataclass, fields

from oprime.runtime.settings import ModelSection
from oprime.runtime.training_settings import VOCABULARY_CHUNK, EngineSection, TrainerSection
from oprime_cli.planning.model_files import ModelFacts
from oprime_cli.run_config import RunConfig

ADAM_BYTES = {"float32": 8, "bfloat16": 12}
"""Optimizer bytes per parameter: two moments, and a float32 master copy beside bfloat16 weights."""
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
ACTIVATION_VALUES = 17
"""Values kept per token, layer and hidden unit for the backward pass, attention scores left out."""
PUBLISHED_BYTES = 4
CHECKPOINT_BYTES = 16
"""Bytes per parameter of a checkpoint: weights, master copy and moments."""


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


def trainer_memory(config: RunConfig, trainer: TrainerSection, model: ModelFacts, *, reference: bool) -> Memory:
    """One rank of the learner, or of the PRM with its frozen reference. Without ZeRO: 16 bytes per parameter."""
    tokens = max(trainer.micro_batch_tokens, sequence_tokens(config))
    if not trainer.micro_batch_tokens:
        tokens = trainer.micro_batch_rollouts * sequence_tokens(config)
    return training_memory(config.model, trainer, model, tokens=tokens, reference=reference)


def training_memory(settings: ModelSection, trainer: EngineSection, model: ModelFacts, *, tokens: int, reference: bool = False) -> Memory:
    """One rank of a training whose passes have so many tokens."""
    dtype = settings.dtype
    weights, gradients, optimizer = (model.parameters * size for size in (WEIGHT_BYTES[dtype], WEIGHT_BYTES[dtype], ADAM_BYTES[dtype]))
    frozen = weights if reference else 0
    # ZeRO 1 spreads the optimizer over the ranks, 2 the gradients as well, 3 the weights as well.
    if trainer.zero_stage >= 1:
        optimizer //= trainer.ranks
    if trainer.zero_stage >= 2:
        gradients //= trainer.ranks
    if trainer.zero_stage >= 3:
        weights //= trainer.ranks
    return Memory(
        weights=weights + frozen,
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
    logits = 2 * 4 * min(tokens, trainer.logprob_chunk_tokens) * min(model.vocabulary, VOCABULARY_CHUNK)
    return layers + logits


def generator_memory(config: RunConfig, model: ModelFacts, *, gpu_bytes: int) -> Memory:
    """One GPU of a replica, or the whole replica on a CPU (`gpu_bytes` = 0)."""
    size = WEIGHT_BYTES[config.model.dtype]
    parallel = config.generator.tensor_parallel if gpu_bytes else 1
    weights = model.parameters * size // parallel
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
    return trainer_memory(config, config.learner.training(config.critic), critic, reference=False)


def disk_bytes(config: RunConfig, policy: ModelFacts, prm: ModelFacts | None, critic: ModelFacts | None = None) -> int:
    """Checkpoints (one more while it is written), weight versions (those kept, one per checkpoint, one being written)."""
    checkpoints = (config.run.keep_checkpoints + 1) * CHECKPOINT_BYTES * sum(model.parameters for model in (policy, prm, critic) if model)
    versions = (config.store.keep_versions + config.run.keep_checkpoints + 1) * PUBLISHED_BYTES * policy.parameters
    return checkpoints + versions
