"""Prompts go through the chat template; end and padding tokens are found; differing tokenizers are told apart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from oprime.core.types import ChatMessage
from oprime.lm.responses import ResponseEncoder
from oprime.lm.tokenizers import (
    encode,
    end_token_ids,
    load_tokenizer,
    pad_token_id,
    plain_backend,
    render_prompt,
    render_text,
    require_chat_template,
    same_tokenizer,
)
from oprime.runtime.errors import SettingsError, UnusableInputError

WORDS = ("<pad>", "<end>", "<user>", "<assistant>", "one", "two", "three")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ message['role'] }}> {{ message['content'] }} <end> {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make(words: tuple[str, ...] = WORDS, template: str | None = TEMPLATE, **special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    chosen: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<pad>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{name: token for name, token in chosen.items() if token})
    tokenizer.chat_template = template  # type: ignore[assignment]
    return tokenizer


def saved(tokenizer: PreTrainedTokenizerBase, directory: Path, **generation: object) -> Path:
    tokenizer.save_pretrained(directory)
    if generation:
        (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return directory


def test_a_prompt_ends_where_the_answer_begins() -> None:
    ids = render_prompt(make(), [ChatMessage(role="user", content="one two")])
    assert make().convert_ids_to_tokens(ids) == ["<user>", "one", "two", "<end>", "<assistant>"]


def test_a_loaded_tokenizer_renders_the_same_prompt(tmp_path: Path) -> None:
    messages = [
        ChatMessage(role="user", content="three"),
        ChatMessage(role="assistant", content="one"),
        ChatMessage(role="user", content="two"),
    ]
    assert render_prompt(load_tokenizer(saved(make(), tmp_path)), messages) == render_prompt(make(), messages)


def test_messages_are_never_glued_together_without_a_template() -> None:
    with pytest.raises(SettingsError, match=r"no chat template.*chat_template\.jinja"):
        render_prompt(make(template=None), [ChatMessage(role="user", content="one")])
    with pytest.raises(SettingsError, match="no chat template"):
        require_chat_template(make(template=None))


def test_a_conversation_that_the_template_refuses_is_unusable() -> None:
    with pytest.raises(UnusableInputError, match="roles user, tool: no tools here"):
        render_prompt(make(), [ChatMessage(role="user", content="one"), ChatMessage(role="tool", content="two")])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{{ messages[1]['content'] }}", "has no element 1"),
        ("{{ messages | map('fail') | list }}", "No filter named"),
        ("{{ messages[0]['content'].encode('ascii') }}", "encode"),
        ("{{ 1 // (messages | length - 1) }}", "ZeroDivisionError"),
    ],
)
def test_whatever_a_template_trips_over_makes_the_conversation_unusable(fault: str, reason: str) -> None:
    messages = [ChatMessage(role="user", content="one π")]
    with pytest.raises(UnusableInputError, match=rf"the chat template refuses a conversation of roles user: .*{reason}"):
        render_prompt(make(template=fault), messages)
    with pytest.raises(UnusableInputError, match=reason):
        render_text(make(template=fault), messages, asks=False)


def test_the_text_of_a_conversation_has_the_tokens_of_its_prompt() -> None:
    messages = [ChatMessage(role="user", content="one two")]
    assert render_text(make(), messages, asks=True) == "<user> one two <end> <assistant>"
    assert render_text(make(), messages, asks=False) == "<user> one two <end> "


def test_an_empty_prompt_is_unusable() -> None:
    with pytest.raises(UnusableInputError, match="no messages"):
        render_prompt(make(), [])
    with pytest.raises(UnusableInputError, match="empty prompt of 1 messages"):
        render_prompt(make(template="{# nothing #}"), [ChatMessage(role="user", content="one")])


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no tokenizer can be loaded from .*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_tokenizers_agree_whatever_their_templates_say() -> None:
    assert same_tokenizer(make(), make(template="{{ messages[0]['content'] }}")) is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (make((*WORDS, "four")), "one vocabulary has 7 tokens, the other 8"),
        (make((*WORDS[:-2], "three", "two")), "token 'two' has id 5 in one vocabulary and 6 in the other"),
        (make((*WORDS[:-1], "four")), "token 'three' has id 6 in one vocabulary and none in the other"),
        (make(eos_token=WORDS[3]), "eos_token_id is 1 in one tokenizer and 3 in the other"),
    ],
)
def test_the_first_difference_is_named(other: PreTrainedTokenizerFast, reason: str) -> None:
    assert same_tokenizer(make(), other) == reason


@pytest.mark.parametrize(("given", "expected"), [([3, 1], (3, 1)), (3, (3,)), (None, (1,))])
def test_end_tokens_come_from_the_generation_config_first(tmp_path: Path, given: object, expected: tuple[int, ...]) -> None:
    assert end_token_ids(make(), saved(make(), tmp_path, eos_token_id=given)) == expected


def test_without_a_generation_config_the_tokenizers_end_token_counts(tmp_path: Path) -> None:
    assert end_token_ids(make(), saved(make(), tmp_path)) == (1,)


@pytest.mark.parametrize("given", [[], [1, 99], -1, "1", [True]])
def test_unusable_end_tokens_are_refused(tmp_path: Path, given: object) -> None:
    with pytest.raises(SettingsError, match="no usable end token"):
        end_token_ids(make(), saved(make(), tmp_path, eos_token_id=given))


def test_no_end_token_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="eos_token_id is None"):
        end_token_ids(make(eos_token=""), tmp_path)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"generation_config\.json cannot be read"):
        end_token_ids(make(), tmp_path)


def test_padding_falls_back_to_the_end_token() -> None:
    assert pad_token_id(make()) == 0
    assert pad_token_id(make(pad_token="")) == 1
    with pytest.raises(SettingsError, match="neither a padding nor an end token"):
        pad_token_id(make(pad_token="", eos_token=""))


ALONE = """
import json, os, sys
from oprime.core.types import ChatMessage
from oprime.lm.tokenizers import load_tokenizer, render_prompt
from oprime.lm.without_torch import make_no_models
make_no_models()
ids = render_prompt(load_tokenizer(sys.argv[1]), [ChatMessage(role="user", content="one two")])
print(json.dumps([ids, "torch" in sys.modules, os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")]))
import torch
print(json.dumps(torch.ones(2).sum().item()))
"""


def test_a_process_that_makes_no_model_tokenizes_alike_and_without_torch(tmp_path: Path) -> None:
    path = saved(make(), tmp_path)
    ended = subprocess.run([sys.executable, "-c", ALONE, str(path)], capture_output=True, text=True, check=True)
    expected = render_prompt(load_tokenizer(path), [ChatMessage(role="user", content="one two")])
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [[expected, False, None], 2.0]
    assert ended.stderr == ""


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["the sum", "😀 日本"], trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


@pytest.mark.parametrize("text", ["", "the sum", "<end>the<end>", "😀 e\u0301", " a  b\n"])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_text_is_read_as_the_tokenizer_itself_reads_it(text: str, special_tokens: bool) -> None:
    tokenizer = byte_level()
    backend = plain_backend(tokenizer)
    assert backend is not None
    # What somebody set before changes nothing.
    tokenizer(["the", "sum of"], padding=True, truncation=True, max_length=2)
    found = encode(backend, text, special_tokens=special_tokens)
    theirs = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=not special_tokens)
    assert (found.ids, found.offsets) == (theirs["input_ids"], theirs["offset_mapping"])


@pytest.mark.parametrize("splits", [True, False])
def test_a_prompt_is_read_as_the_template_s_own_way_reads_it(splits: bool) -> None:
    tokenizer = make()
    tokenizer.split_special_tokens = splits
    messages = [ChatMessage(role="user", content="one two")]
    assert list(ResponseEncoder(tokenizer, 1).prompt(messages)) == render_prompt(tokenizer, messages)


def test_a_tokenizer_with_its_own_way_to_read_keeps_it() -> None:
    class Doubled(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> Any:
            return super()._encode_plus(f"{text} {text}", *arguments, **options)

    tokenizer = Doubled(tokenizer_object=make().backend_tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="<pad>")
    assert plain_backend(tokenizer) is None
    assert ResponseEncoder(tokenizer, 1).text("one", special_tokens=False)[0] == (4, 4)
