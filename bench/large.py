"""The larger of the benchmarks' two sizes: its settings and its model."""

from pathlib import Path
from typing import TYPE_CHECKING

from oprime.tasks.chain_tokenizer import VOCABULARY, save_chain_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaConfig

CONFIG = Path(__file__).with_name("large.toml")
CONTEXT = 128


def model_config() -> "LlamaConfig":
    """About eleven million weights in the form of Llama (as the demo's model), on the chain task's tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=384,
        intermediate_size=1280,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=VOCABULARY.index("<bos>"),
        eos_token_id=VOCABULARY.index("<eos>"),
        pad_token_id=VOCABULARY.index("<pad>"),
    )


def save_model(directory: Path) -> None:
    """Random weights, always the same, and the tokenizer."""
    from oprime.lm.models import random_causal_lm

    random_causal_lm(model_config(), 0).save_pretrained(str(directory))
    save_chain_tokenizer(directory, CONTEXT)
