"""Models that vLLM would start with, and then sample otherwise than the learner computes, or end."""

from pathlib import Path
from typing import Any

from oprime.runtime.errors import SettingsError

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Of a config: how many experts a layer has."""
_STATES = ("linear_num_value_heads", "state_size", "ssm_state_size", "mamba_d_state")
"""Of a config: the size of what some layers carry from token to token in place of keys and values."""


def require_sampled_as_trained(config: Any, directory: Path, *, on_cpu: bool) -> None:
    """Raise SettingsError where vLLM 0.32 has another policy than transformers. `config` is that of the text model in `directory`."""
    model = f"model {directory} ({config.model_type})"
    if config.model_type == "gemma3n_text":
        # Gemma3nForCausalLM gets none of them; Gemma3nForConditionalGeneration makes them only where it may get images.
        raise SettingsError(
            f"{model} adds embeddings of its own to each layer, which vLLM 0.32 leaves out where prompts are text: it would sample from "
            'another policy. Set generator.backend = "transformers"'
        )
    if not on_cpu:
        return
    if _any(config, _EXPERTS):
        raise SettingsError(
            f"{model} is a mixture of experts, and on a CPU vLLM 0.32 would sample with wrong experts once it has followed to newer "
            'weights: set generator.backend = "transformers", or sample on a GPU'
        )
    if _any(config, _STATES):
        raise SettingsError(
            f"{model} has layers with a state in place of keys and values, which vLLM 0.32 on a CPU computes in bfloat16 alone, or not at "
            'all: set generator.backend = "transformers", or sample on a GPU'
        )


def _any(config: Any, names: tuple[str, ...]) -> bool:
    return any(getattr(config, name, 0) for name in names)
