"""Models that vLLM would start with, and then sample from otherwise than the learner computes, or not at all."""

from collections.abc import Mapping
from typing import Any

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""In a config: how many experts a layer has."""
_STATES = ("linear_num_value_heads", "state_size", "ssm_state_size", "mamba_d_state")
"""In a config: the size of what some layers carry from token to token in place of keys and values."""
_WITH_IMAGES = frozenset({"gemma3", "gemma4", "gemma4_unified"})
"""Models whose form that also takes images vLLM has in code that prepares images."""
_ALWAYS_WITH_IMAGES = frozenset({"qwen3_5", "qwen3_5_moe"})
"""Models that it has in such code alone."""
_LEFT = 'set generator.backend = "transformers"'


def refusal(config: Mapping[str, Any], *, on_cpu: bool) -> str:
    """Why vLLM 0.32 cannot sample as transformers computes, and the remedy, after the name of the model; empty where it can.

    `config` is the config.json of the text model.
    """
    kind = config.get("model_type")
    if kind == "gemma3n_text":
        # vLLM's Gemma3nForCausalLM gets none of them, and its Gemma3nForConditionalGeneration makes them only where images may come.
        return (
            f"({kind}) adds embeddings of its own to each layer, which vLLM 0.32 leaves out where prompts are text, so it would sample "
            f"from another policy: {_LEFT}"
        )
    if on_cpu and _has(config, _EXPERTS):
        return (
            f"({kind}) is a mixture of experts, and on a CPU vLLM 0.32 would sample with wrong experts once it has followed to newer "
            f"weights: {_LEFT}, or sample on a GPU"
        )
    if on_cpu and _has(config, _STATES):
        return (
            f"({kind}) has layers with a state in place of keys and values, which vLLM 0.32 on a CPU computes in bfloat16 alone, or not at "
            f"all: {_LEFT}, or sample on a GPU"
        )
    return ""


def packages_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What vLLM 0.32's code of a model imports and does not bring along, images or none.

    `config` is config.json, in which the settings of the text model stand among those of the whole.
    """
    kind = str(config.get("model_type", "")).removesuffix("_text")
    with_images = kind in _ALWAYS_WITH_IMAGES or (kind in _WITH_IMAGES and "vision_config" in config)
    return ("torchvision",) if with_images else ()


def _has(config: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(config.get(name) for name in names)
