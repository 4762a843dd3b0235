"""Rotary position embeddings whose factors depend on how long a row is.

transformers chooses them anew in every pass, by the longest row of it, so that a rollout's log-probs would depend on its neighbours. vLLM
chooses them once, by the longest row that it may get. Here as there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fix_rotary_factors(model: "PreTrainedModel", longest: int | None, path: str | Path) -> None:
    """Let LongRoPE (Phi-3 and others) have the factors of rows up to `longest` tokens, or of its whole context, in every pass.

    Raises SettingsError for factors that grow with the row ("dynamic"): each sampler has its own idea of them.
    """
    for module in model.modules():
        kind: Any = getattr(module, "rope_type", None)
        kinds = list(kind.values()) if isinstance(kind, dict) else [kind]
        if any("dynamic" in str(one) for one in kinds) or (isinstance(kind, dict) and "longrope" in kinds):
            raise SettingsError(
                f"model {path} has rotary factors of type {kind}, which change with the longest row of a pass: a rollout's log-probs would "
                'depend on its neighbours and on the sampler. Choose a model, or a rope_type in its config.json ("yarn", "linear"), with '
                "factors that stay"
            )
        if kind == "longrope":
            _fix(module, longest)


def _fix(module: Any, longest: int | None) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = module.config
    original = int(config.rope_parameters["original_max_position_embeddings"])
    if (longest or config.max_position_embeddings) > original:
        factors, _ = ROPE_INIT_FUNCTIONS["longrope"](config, module.inv_freq.device, seq_len=original + 1)
        module.inv_freq.copy_(factors)
    # What transformers updates in each pass are factors of the types that it knows to change.
    module.rope_type = "default"
