"""Load causal language models of Hugging Face form, with one clear sentence for everything that can be wrong with them."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from oprime.lm.file_names import is_not_of_text, require_form_of_files
from oprime.lm.hub_id import is_hub_id
from oprime.lm.rotary import fix_rotary_factors
from oprime.runtime.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel
    from transformers.configuration_utils import PretrainedConfig

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

UNBOUNDED = 2**31 - 1

_READ_ALONE = ("qwen3_5_text", "qwen3_5_moe_text", "gemma3n_text")
"""Types of text models that transformers reads out of the files of a model for images or sound, without the rest of it."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_causal_lm(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    device: torch.device | str = "cpu",
    gradient_checkpointing: bool = False,
    trust_remote_code: bool = False,
    longest: int | None = None,
) -> "PreTrainedModel":
    """Load the causal language model in directory (or hub id) `path`, in eval mode, without dropout.

    `longest` is the most tokens that a row will have, all that the model takes by default: long-context variants have rotary factors for
    short and for long ones, and it decides which hold. An architecture without sdpa gets eager attention.

    Of a model that also takes images or sound (`backbone`), the text model is trained: all else is frozen, or not loaded at all.

    `dtype` is what the weights are held in. Give float32 for a model that will be trained: the engine keeps these as the
    master weights and computes in its own type. Weights are read from safetensors only. Raises SettingsError when the
    directory, its config or any weight is missing, when a weight is not part of the model, or when it is no causal
    language model.
    """
    from transformers import AutoModelForCausalLM

    config = _load_config(path, trust_remote_code=trust_remote_code)
    _require_causal_lm(config, path)
    text = text_config(config)
    with _quiet_transformers(), _loading(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(path),
            config=text,
            dtype=_DTYPES[dtype],
            attn_implementation=_known_attention(text, attention),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, report = loaded
    _require_every_weight(report, path, reads_alone=text is not config)
    require_form_of_files(model, path)
    fix_rotary_factors(model, longest, path)
    return _ready(model, device=device, gradient_checkpointing=gradient_checkpointing, path=path)


def text_config(config: "PretrainedConfig") -> "PretrainedConfig":
    """What a model is loaded with: the settings of its text model, where transformers reads that alone, or else its own."""
    text: Any = config.get_text_config()
    return text if text.model_type in _READ_ALONE else config


def config_of_files(causal_lm: "PreTrainedModel") -> "PretrainedConfig":
    """What belongs beside the weights in a config.json: the model's own settings, inside those of the model for images or sound out of
    whose files it was read alone."""
    own = causal_lm.config
    if own.model_type not in _READ_ALONE or not causal_lm.name_or_path:
        return own
    whole: Any = _load_config(causal_lm.name_or_path, trust_remote_code=False)
    if whole.get_text_config() is whole:
        return own
    whole.text_config = own
    return whole


def backbone(causal_lm: "PreTrainedModel") -> "PreTrainedModel":
    """The layers that turn tokens into hidden states: without the head, and without what a model for images or sound has besides."""
    base: Any = causal_lm.base_model
    return base.language_model if is_for_more_than_text(causal_lm) else base


def is_for_more_than_text(causal_lm: "PreTrainedModel") -> bool:
    """Whether the model holds a text model among others, as Gemma 3 does, of which text alone is read here."""
    return causal_lm.config.get_text_config() is not causal_lm.config and hasattr(causal_lm.base_model, "language_model")


def beside_text(causal_lm: "PreTrainedModel") -> "Iterator[tuple[str, nn.Module]]":
    """The modules of a model for images or sound, by their names, that text does not pass; none of a model for text."""
    if not is_for_more_than_text(causal_lm):
        return
    text = {id(module) for part in (backbone(causal_lm), causal_lm.get_output_embeddings()) if part for module in part.modules()}
    around = {id(causal_lm), id(causal_lm.base_model)}
    yield from ((name, module) for name, module in causal_lm.named_modules() if id(module) not in text | around)


def random_causal_lm(
    config: "PretrainedConfig",
    seed: int,
    *,
    attention: Attention = "sdpa",
    gradient_checkpointing: bool = False,
) -> "PreTrainedModel":
    """A float32 causal language model on the CPU with weights drawn from `seed`; the global random state is left alone."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=_known_attention(config, attention))
    fix_rotary_factors(model, None, type(config).__name__)
    return _ready(model, device="cpu", gradient_checkpointing=gradient_checkpointing, path=type(config).__name__)


def seed_process(seed: int) -> None:
    """Seed torch's own chance for this process.

    Nothing that is trained here draws: dropout and router noise are off, and a critic's head starts at 0. A model with code of its own may.
    """
    torch.manual_seed(seed)


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of weights, each tied or shared weight once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable_only)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate (and router noise) to 0, so that a training pass and a scoring pass compute the same numbers.

    That includes the rates of the model's config: some architectures (Falcon, Persimmon) read them there in every pass.
    """
    for config in _configs(model):
        for name, value in list(vars(config).items()):
            if isinstance(value, float) and _is_noise(name):
                setattr(config, name, 0.0)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and _is_noise(name):
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _configs(model: nn.Module) -> list[Any]:
    whole: Any = getattr(model, "config", None)
    if whole is None:
        return []
    text = whole.get_text_config()
    return [whole] if text is whole else [whole, text]


def longest_context(config: "PretrainedConfig") -> int:
    """Positions of a model, in tokens; `UNBOUNDED` where positions are relative (ALiBi) or there is a state instead."""
    text: Any = config.get_text_config()
    found = [getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    return next((int(positions) for positions in found if positions), UNBOUNDED)


def _is_noise(name: str) -> bool:
    return any(word in name.lower() for word in ("dropout", "layerdrop", "jitter", "drop_rate", "_pdrop"))


def _ready(model: Any, *, device: torch.device | str, gradient_checkpointing: bool, path: str | Path) -> "PreTrainedModel":
    disable_dropout(model)
    for _, module in beside_text(model):
        module.requires_grad_(False)
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise SettingsError(
                f"model.gradient_checkpointing is on, but {type(model).__name__} ({path}) does not support it: set it to false"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.eval().to(device)


def _known_attention(config: "PretrainedConfig", wanted: Attention) -> Attention:
    """`eager` where sdpa is wanted and the architecture has none (Bloom, MPT), or has no attention at all (Mamba)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if wanted == "sdpa" and known is not None and not getattr(known, "_supports_sdpa", True) else wanted


def _load_config(path: str | Path, *, trust_remote_code: bool) -> "PretrainedConfig":
    from transformers import AutoConfig

    directory = Path(path)
    if directory.is_dir():
        if (directory / "adapter_config.json").is_file():
            raise SettingsError(
                f"model {path} is an adapter, not a whole model: put it on the model that it belongs to (PEFT's merge_and_unload), and "
                "name the directory of the result"
            )
        if not (directory / "config.json").is_file():
            raise SettingsError(f"model {path} has no config.json: give the directory that save_pretrained wrote")
    elif not is_hub_id(str(path)):
        raise SettingsError(f"model {path} is not a directory: give the directory of a Hugging Face model, or its hub id")
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(
            f"model {path} is neither a readable model directory nor a hub id that can be fetched: {_first_line(error)}"
        ) from error


def _require_causal_lm(config: "PretrainedConfig", path: str | Path) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ())
    known = (known,) if isinstance(known, str) else tuple(known)
    given = tuple(config.architectures or known)
    wrapped = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type) if text_config(config) is not config else None
    if not set(given) & {*known, wrapped}:
        raise SettingsError(
            f"model {path} is {', '.join(given) or config.model_type}, not a causal language model: give one whose architecture is "
            f"{' or '.join(known) or 'a ...ForCausalLM'}"
        )


def _require_every_weight(report: Any, path: str | Path, *, reads_alone: bool) -> None:
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not (reads_alone and is_not_of_text(name)))
    mismatched = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for names, what in (
        (missing, "lacks weights of its architecture"),
        (unexpected, "has weights that its architecture does not know"),
        (mismatched, "has weights of another shape than its config says"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise SettingsError(f"model {path} {what}: {shown}. Its config.json and safetensors files do not belong together")


@contextmanager
def _loading(path: str | Path) -> "Iterator[None]":
    try:
        yield
    except ImportError as error:
        raise SettingsError(f"model {path} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SettingsError(f"model {path} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("safetensors") or type(error).__name__ == "SafetensorError":
            raise SettingsError(f"model {path} has a damaged safetensors file: {_first_line(error)}") from error
        raise


@contextmanager
def _quiet_transformers() -> "Iterator[None]":
    """No progress bars and no loading report: what is wrong becomes an error instead."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
