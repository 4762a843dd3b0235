"""Tiny model directories, complete with a tokenizer, for tests of whatever loads them."""

from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from oprime.lm.models import load_causal_lm, random_causal_lm

PAD, BOS, END = 0, 1, 2
VOCABULARY = 40
POSITIONS = 1024


def write_tokenizer(directory: Path, template: str = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}") -> None:
    """Words w3 to w39, each one token; a prompt is the messages' words unless another chat template is given."""
    words = {"<pad>": PAD, "<bos>": BOS, "<eos>": END} | {f"w{token}": token for token in range(3, VOCABULARY)}
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    inner = Tokenizer(WordLevel(words, "<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def write_policy(directory: Path, *, seed: int = 0) -> PreTrainedModel:
    """A Llama of two layers whose next tokens are uncertain, so that sampling is really random.

    Not a Qwen2: transformers reads the tokenizer of every Qwen2 as Qwen's own, whatever its files say.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=BOS,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = random_causal_lm(config, seed)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


def with_other_head(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """Change the output layer alone, in place: keys and values of earlier tokens stay what they are."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head = model.get_parameter("lm_head.weight")
        head.add_(0.2 * torch.randn(head.shape, generator=noise))
    return model


@lru_cache(maxsize=2)
def _loaded(directory: Path) -> PreTrainedModel:
    return load_causal_lm(directory)


def full_logprobs(directory: Path, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], temperature: float) -> list[float]:
    """log-softmax of one full forward pass at each response token."""
    model = _loaded(directory)
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    first = len(prompt_ids) - 1
    return [float(logprobs[first + position, token]) for position, token in enumerate(response_ids)]


def greedy_tokens(directory: Path, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...]) -> tuple[int, ...]:
    """The most probable token at each place of a response, by one full forward pass."""
    with torch.no_grad():
        logits = _loaded(directory)(input_ids=torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
    return tuple(logits[len(prompt_ids) - 1 : -1].argmax(-1).tolist())
