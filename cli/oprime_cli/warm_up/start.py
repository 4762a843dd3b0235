"""The model that a supervised fine-tuning begins with."""

from typing import TYPE_CHECKING, Any

from oprime.lm.lora import base_dtype
from oprime.lm.models import load_causal_lm, longest_context, random_causal_lm
from oprime.lm.tokenizers import end_token_ids
from oprime.runtime.errors import SettingsError
from oprime.tasks.chain_tokenizer import BEGIN, END, PAD, VOCABULARY, chain_tokenizer
from oprime_cli.console import say
from oprime_cli.model_training.files import Start
from oprime_cli.warm_up.plan import WarmUp, beyond_positions
from oprime_cli.warm_up.templates import load_chat_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW_MODEL_POSITIONS = 128


def load_start(plan: WarmUp) -> Start:
    """Raises SettingsError for a model that cannot be trained on."""
    model = plan.config.model
    if plan.makes_a_model:
        tokenizer: Any = chain_tokenizer(NEW_MODEL_POSITIONS)
        made = new_chain_model(plan.settings.seed, attention=model.attention, gradient_checkpointing=model.gradient_checkpointing)
        return Start(made, tokenizer, (VOCABULARY.index(END),))
    tokenizer = load_chat_tokenizer(plan, plan.start)
    loaded = load_causal_lm(
        plan.start,
        dtype=base_dtype(plan.settings.lora, model.dtype),
        attention=model.attention,
        gradient_checkpointing=model.gradient_checkpointing,
        trust_remote_code=model.trust_remote_code,
    )
    _require_room(loaded, plan)
    return Start(loaded, tokenizer, end_token_ids(tokenizer, plan.start))


def _require_room(model: "PreTrainedModel", plan: WarmUp) -> None:
    """Raises SettingsError where the settings allow rows for which the model has no positions; says where it has not seen them yet."""
    config: Any = model.config
    context, asked = longest_context(config), plan.settings.max_tokens
    if asked <= context:
        return
    if getattr(config.get_text_config(), "rope_parameters", None) is None:
        raise SettingsError(f"sft.max_tokens = {asked} is more than the {context} positions of {plan.start}: set sft.max_tokens={context}")
    say(f"note: {beyond_positions(asked, context, plan.start)}")


def new_chain_model(seed: int, **options: Any) -> "PreTrainedModel":
    """The chain task's model before training: a Llama of 0.1 M weights, whose head size of 32 vLLM can serve on a CPU.

    Not a Qwen2: transformers reads the tokenizer of every Qwen2 as Qwen's own, whatever its files say.
    """
    from transformers import LlamaConfig

    shape = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=NEW_MODEL_POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=VOCABULARY.index(PAD),
        bos_token_id=VOCABULARY.index(BEGIN),
        eos_token_id=VOCABULARY.index(END),
    )
    return random_causal_lm(shape, seed, **options)
