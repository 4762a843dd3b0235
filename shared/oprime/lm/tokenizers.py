"""Tokenizers of Hugging Face form: prompts through the chat template, end tokens, and whether two tokenizers agree."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from oprime.core.types import ChatMessage
from oprime.lm.without_torch import import_transformers
from oprime.runtime.errors import SettingsError, UnusableInputError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

_WAYS_TO_READ = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding", "apply_chat_template")
"""Methods between a call of a tokenizer, or of its template, and the tokenizers library."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Opens what the assistant says, in a chat template."""
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """Load the tokenizer in directory (or of hub id) `path`. Raises SettingsError if there is none."""
    import_transformers()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(
            f"no tokenizer can be loaded from {path}: {reason}. Give a model directory that holds tokenizer.json and tokenizer_config.json"
        ) from error


def plain_backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer | None":
    """What reads texts behind `tokenizer`, for `encode`; None where the tokenizer's class has its own way to read them."""
    import_transformers()
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or hasattr(tokenizer, "_switch_to_input_mode"):
        return None
    own = any(getattr(type(tokenizer), name) is not getattr(PreTrainedTokenizerFast, name) for name in _WAYS_TO_READ)
    return None if own else tokenizer.backend_tokenizer


def encode(backend: "Tokenizer", text: str, *, special_tokens: bool) -> "Encoding":
    """The tokens of a text as it stands; names of special tokens stand for them only if so wanted.

    As a call of the tokenizer with `add_special_tokens=False` does it, without its options, which cost a short text ten times the reading.
    """
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens == special_tokens:
        backend.encode_special_tokens = not special_tokens
    return backend.encode(text, add_special_tokens=False)


def require_chat_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise SettingsError unless the tokenizer says how a conversation is written."""
    if not tokenizer.chat_template:
        raise SettingsError(
            f"tokenizer {tokenizer.name_or_path or '(unnamed)'} has no chat template, so messages cannot become a prompt: "
            "put chat_template.jinja beside tokenizer.json, or set chat_template in tokenizer_config.json"
        )


def render_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage]) -> list[int]:
    """Token ids of the conversation up to where the policy's answer begins.

    Always through the chat template, with its generation prompt. Raises SettingsError if there is no template and
    UnusableInputError if the template refuses these messages or makes nothing of them.
    """
    ids = _through_template(tokenizer, messages, asks=True, tokenize=True)
    if not ids:
        raise UnusableInputError(f"the chat template makes an empty prompt of {len(messages)} messages: change the template")
    return cast("list[int]", ids)


def render_text(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage], *, asks: bool) -> str:
    """Text of the conversation; `asks` ends it where the policy's answer begins. Raises as `render_prompt` does."""
    return str(_through_template(tokenizer, messages, asks=asks, tokenize=False))


def generated_spans(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage]) -> tuple[str, list[tuple[int, int]]] | None:
    """Text of the conversation, and the character ranges in it that the template marks with {% generation %}; None without such markers.

    Raises as `render_prompt` does.
    """
    require_chat_template(tokenizer)
    template = tokenizer.get_chat_template()
    if not _GENERATION.search(template):
        return None
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": message.role, "content": message.content} for message in messages]
    names: dict[str, Any] = dict(tokenizer.special_tokens_map)
    with _refusals_of(messages):
        texts, spans = render_jinja_template([conversation], chat_template=template, return_assistant_tokens_mask=True, **names)
    return str(texts[0]), [(int(start), int(end)) for start, end in spans[0]]


def _through_template(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage], *, asks: bool, tokenize: bool) -> object:
    require_chat_template(tokenizer)
    if not messages:
        raise UnusableInputError("a conversation has no messages: give at least one")
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    with _refusals_of(messages):
        return tokenizer.apply_chat_template(conversation, add_generation_prompt=asks, tokenize=tokenize, return_dict=False)


@contextmanager
def _refusals_of(messages: Sequence[ChatMessage]) -> Iterator[None]:
    """Turns what a template raises into UnusableInputError. It is a program of the model's authors: besides its own refusals it raises
    whatever its code trips over."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        roles = ", ".join(message.role for message in messages)
        own = type(error).__module__.partition(".")[0] == "jinja2" and str(error)
        said = str(error) if own else f"{type(error).__name__}: {error}"
        raise UnusableInputError(f"the chat template refuses a conversation of roles {roles}: {said}") from error


def same_tokenizer(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> str | None:
    """None if both give every token the same id, else the first difference. Chat templates may differ."""
    return _vocabulary_difference(one.get_vocab(), other.get_vocab()) or _special_difference(one, other)


def end_token_ids(tokenizer: "PreTrainedTokenizerBase", path: str | Path) -> tuple[int, ...]:
    """Ids that end a response: eos_token_id of generation_config.json in `path`, or else the tokenizer's end token."""
    file = Path(path) / "generation_config.json"
    given: object = None
    if file.is_file():
        try:
            given = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from error
    if given is None:
        given = tokenizer.eos_token_id
    listed = given if isinstance(given, list) else [given]
    ids = tuple(token for token in listed if type(token) is int and 0 <= token < len(tokenizer))
    if not ids or len(ids) != len(listed):
        raise SettingsError(
            f"no usable end token for {path}: eos_token_id is {given!r} and the vocabulary has {len(tokenizer)} tokens; "
            "set eos_token_id in generation_config.json"
        )
    return ids


def pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id that fills rows: the tokenizer's padding token, or else its end token. Padding is masked and never trained."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise SettingsError(
        f"tokenizer {tokenizer.name_or_path or '(unnamed)'} has neither a padding nor an end token: set eos_token in tokenizer_config.json"
    )


def _vocabulary_difference(one: dict[str, int], other: dict[str, int]) -> str | None:
    if len(one) != len(other):
        return f"one vocabulary has {len(one)} tokens, the other {len(other)}"
    for token, token_id in sorted(one.items(), key=lambda entry: entry[1]):
        if other.get(token) != token_id:
            return f"token {token!r} has id {token_id} in one vocabulary and {other.get(token, 'none')} in the other"
    return None


def _special_difference(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> str | None:
    for name in _SPECIAL_IDS:
        if getattr(one, name) != getattr(other, name):
            return f"{name} is {getattr(one, name)} in one tokenizer and {getattr(other, name)} in the other"
    return None
